"""P3: `engine: auto` against both engines forced by hand, over models and numbers of members.

What is compared is the run's training, from the decision how to pack the members to the last published model: what
auto spends on choosing, and on changing its workers for the engine that it chose, is in it. The start of Python, Ray
and TensorFlow, which is the same for all three, is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench.harness import Bar, Bench, Figure, Outcome, Series
from tests.bench.ours import run_cold
from tests.bench.tasks import Task, make_task

ENGINES = ("auto", "solo", "fused")
DEADLINE_S = 400.0
"""Of the first contestant of a task; the others have twice what the slowest so far took, and some seconds: one that
does not end within that is not the best engine, and convolutions fused on a CPU would take hours."""


def tasks(bench: Bench) -> Iterator[tuple[str, Task]]:
    """What is trained, by what it is called."""
    if bench.quick:
        yield "two-input model, M=2", make_task("two_inputs", "pictures_two_inputs", 2, epochs=2)
        return
    models = {"MLP": "mlp", "small CNN": "small_cnn", "BatchNorm CNN": "batchnorm_cnn", "two-input model": "two_inputs"}
    for name, model in models.items():
        data = "fashion_12k_two_inputs" if model == "two_inputs" else "fashion_12k"
        for num_members in (1, 4, 16):
            yield f"{name}, M={num_members}", make_task(model, data, num_members, epochs=4, patience=None)


def measure(bench: Bench) -> Iterator[Figure]:
    """engine: auto against the best engine forced by hand"""
    for name, task in tasks(bench):
        took: list[float] = []
        found = bench.run({engine: partial(_run, bench, task, engine, took) for engine in ENGINES})
        auto, forced = found["auto"], [found["solo"], found["fused"]]
        yield Figure(
            "P3",
            f"{name}: auto's speed ({_chosen(auto)})",
            "the better engine by hand",
            tuple(best / of for best, of in zip(_best(forced), map(_training_s, auto.outcomes), strict=False)),
            bar=Bar(0.9),
            problem=auto.problem,
            facts={engine: {"rounds": found[engine].facts(), "problem": found[engine].problem} for engine in ENGINES},
        )


def _run(bench: Bench, task: Task, engine: str, took: list[float]) -> Outcome:
    deadline_s = min(DEADLINE_S, 2 * max(took) + 20) if took else DEADLINE_S
    outcome = run_cold(bench, task, deadline_s=deadline_s, engine=engine)
    took.append(outcome.seconds)
    return outcome


def _training_s(outcome: Outcome) -> float:
    return float(outcome.facts["training_s"])


def _best(forced: list[Series]) -> list[float]:
    """Round by round, the better of those engines that came to their end."""
    rounds = max(len(series.outcomes) for series in forced)
    return [
        min(_training_s(series.outcomes[number]) for series in forced if number < len(series.outcomes))
        for number in range(rounds)
    ]


def _chosen(auto: Series) -> str:
    return "/".join(sorted({outcome.facts["engine"] for outcome in auto.outcomes})) or "?"
