"""P4: what each further member costs before it trains.

It is bounded from above: the whole time that a member takes with two steps of training, one validation and its saved
model. For a pack it is the slope between a small and a large one, which both compile anew in one process that has
compiled another before; for a solo worker the median over all members but the first.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import Bar, Bench, Contestant, Figure, problem_of
from tests.bench.tasks import Task, make_task

if TYPE_CHECKING:
    from tests.bench.warm import Warm

BACKENDS = ("tensorflow", "jax")
FIRST, FEW = 3, 2


def measure(bench: Bench) -> Iterator[Figure]:
    """start-up of each further member, in a pack and in a solo worker"""
    for backend in BACKENDS[:1] if bench.quick else BACKENDS:

        def run(engine: str, num_members: int, backend: str = backend) -> Contestant:
            task = make_task("mlp", "pictures", num_members, epochs=1, batch_size=320)
            path = str(task.write(bench.scratch() / "task.json"))
            return lambda: bench.process("tests.bench.rows.start_up", engine, backend, path, deadline_s=400)

        found = bench.run(
            {"fused": run("fused", 4 if bench.quick else 16), "solo": run("solo", 3 if bench.quick else 8)}, rounds=3
        )
        for engine, what, bar in (("fused", "pack", 0.2), ("solo", "solo worker", 1.5)):
            yield Figure(
                "P4",
                f"each further member of a {what}, {backend}",
                values=tuple(float(outcome.facts["further_s"]) for outcome in found[engine].outcomes),
                unit="s",
                bar=Bar(bar, at_most=True),
                problem=problem_of(found[engine]),
                facts={"rounds": found[engine].facts()},
            )


def pack_s(warm: Warm, num_members: int) -> float:
    """Seconds that the first so many members take as a pack."""
    began = time.perf_counter()
    replace(warm, members=warm.members[:num_members]).train("fused", lambda member, epoch, logs: None)
    return time.perf_counter() - began


def solo_s(warm: Warm) -> list[float]:
    """Seconds that each member takes by itself."""
    ends = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        for member in warm.members:
            warm.solo(member, lambda member, epoch, logs: None, Path(folder, str(member.index)))
            ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)]


def main(engine: str, backend: str, task_path: str, report_path: str) -> None:
    """The process that is measured."""
    from tests.bench.warm import Warm

    warm = Warm.start(Task.read(task_path), 1 if engine == "solo" else os.cpu_count() or 1, backend=backend)
    if engine == "solo":
        facts = {"further_s": statistics.median(solo_s(warm)[1:])}
    else:
        pack_s(warm, FIRST)
        few, many = pack_s(warm, FEW), pack_s(warm, len(warm.members))
        facts = {"few_s": few, "many_s": many, "further_s": (many - few) / (len(warm.members) - FEW)}
    Path(report_path).write_text(json.dumps({name: round(value, 4) for name, value in facts.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
