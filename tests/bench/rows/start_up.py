"""P4: what each further member costs before it trains.

It is bounded from above: the whole time that a member takes with two steps of training, one validation and its saved
model. For a pack it is the slope between a small and a large one, each in a process of its own; for a solo worker the
median over all members but the first.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.harness import Bar, Bench, Contestant, Figure, problem_of
from tests.bench.tasks import Task, make_task

BACKENDS = ("tensorflow", "jax")


def measure(bench: Bench) -> Iterator[Figure]:
    """start-up of each further member, in a pack and in a solo worker"""
    few, many = (2, 4) if bench.quick else (2, 16)
    for backend in BACKENDS[:1] if bench.quick else BACKENDS:

        def run(engine: str, num_members: int, backend: str = backend) -> Contestant:
            task = make_task("mlp", "pictures", num_members, epochs=1, batch_size=320)
            path = str(task.write(bench.scratch() / "task.json"))
            return lambda: bench.process("tests.bench.rows.start_up", engine, backend, path, deadline_s=400)

        found = bench.run(
            {"few": run("fused", few), "many": run("fused", many), "solo": run("solo", 3 if bench.quick else 8)},
            rounds=3,
        )
        pairs = zip(found["few"].outcomes, found["many"].outcomes, strict=False)
        yield Figure(
            "P4",
            f"each further member of a pack, {backend}",
            values=tuple((b.facts["train_s"] - a.facts["train_s"]) / (many - few) for a, b in pairs),
            unit="s",
            bar=Bar(0.2, at_most=True),
            problem=problem_of(found["few"], found["many"]),
            facts={name: found[name].facts() for name in ("few", "many")},
        )
        yield Figure(
            "P4",
            f"each further member of a solo worker, {backend}",
            values=tuple(statistics.median(each.facts["member_s"][1:]) for each in found["solo"].outcomes),
            unit="s",
            bar=Bar(1.5, at_most=True),
            problem=problem_of(found["solo"]),
            facts={"solo": found["solo"].facts()},
        )


def main(engine: str, backend: str, task_path: str, report_path: str) -> None:
    """The process that is measured: train all members, and note how long each, and all, took."""
    import os

    from tests.bench.warm import Warm

    num_cpus = 1 if engine == "solo" else os.cpu_count() or 1
    warm = Warm.start(Task.read(task_path), num_cpus, backend=backend)
    member_s = []
    began = time.perf_counter()
    if engine == "fused":
        warm.train(engine, lambda member, epoch, logs: None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for member in warm.members:
                member_began = time.perf_counter()
                warm.solo(member, lambda member, epoch, logs: None, Path(folder, str(member.index)))
                member_s.append(time.perf_counter() - member_began)
    facts = {"train_s": round(time.perf_counter() - began, 4), "member_s": member_s}
    Path(report_path).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
