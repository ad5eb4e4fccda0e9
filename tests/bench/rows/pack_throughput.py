"""P2: training throughput of a pack, warm, against the same members written by hand in JAX."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tests.bench.harness import Bar, Bench, Contestant, Figure, Outcome, problem_of, ratios
from tests.bench.tasks import make_task

BACKENDS = ("tensorflow", "jax")
SIZES = (2, 4, 8, 16)
JUDGED = (4, 8)


def epoch_s(outcome: Outcome) -> float:
    """An epoch of the whole pack, validation included: the median of all but the first, which compiles."""
    return statistics.median(outcome.facts["epoch_s"][1:])


def measure(bench: Bench) -> Iterator[Figure]:
    """warm throughput of a pack, against hand-written JAX vmap + scan"""
    for num_members in (2,) if bench.quick else SIZES:
        data, epochs = ("pictures", 3) if bench.quick else ("fashion_mnist", 4)
        task = make_task("mlp", data, num_members, epochs=epochs, patience=None)
        path = str(task.write(bench.scratch() / "task.json"))
        deadline_s = 240.0 if bench.quick else 900.0

        def ours(backend: str, path: str = path, deadline_s: float = deadline_s) -> Contestant:
            return lambda: bench.process("tests.bench.warm", "fused", backend, path, deadline_s=deadline_s)

        found = bench.run(
            {
                "JAX by hand": lambda path=path, deadline_s=deadline_s: bench.process(
                    "tests.bench.rivals.jax_scan", path, deadline_s=deadline_s
                ),
                **{backend: ours(backend) for backend in BACKENDS},
            },
            rounds=3 if num_members in JUDGED else 1,
        )
        rival = found["JAX by hand"]
        for backend in BACKENDS:
            yield Figure(
                "P2",
                f"pack of {num_members}, warm, {backend}: share of the throughput",
                "hand-written JAX vmap + scan",
                ratios(rival, found[backend], epoch_s),
                bar=Bar(0.8) if num_members in JUDGED else None,
                problem=problem_of(rival, found[backend]),
                facts={"ours": found[backend].facts(), "rival": rival.facts()},
            )
            yield Figure(
                "P2",
                f"pack of {num_members}, warm, {backend}: an epoch of one member",
                values=tuple(epoch_s(outcome) / num_members for outcome in found[backend].outcomes),
                unit="s",
                problem=problem_of(found[backend]),
            )
