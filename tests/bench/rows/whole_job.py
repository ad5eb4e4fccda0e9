"""P1: 16 members of the Fashion-MNIST MLP, cold whole processes, against everybody's way of doing it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench.harness import Bar, Bench, Contestant, Figure, problem_of, ratios
from tests.bench.ours import run_cold
from tests.bench.tasks import Task, make_task

RIVALS = "tests.bench.rivals"
BARS = {
    ("Ray Tune", "tensorflow"): Bar(6),
    ("sequential Keras loop", "tensorflow"): Bar(5),
    ("the loop with steps_per_execution=50", "tensorflow"): Bar(2.5),
    ("Ray Tune", "jax"): Bar(8),
    ("sequential Keras loop", "jax"): Bar(6.5),
    ("the loop with steps_per_execution=50", "jax"): Bar(3),
}


def rivals(bench: Bench, task: Task, deadline_s: float) -> dict[str, Contestant]:
    """Everybody else, by name; all with Keras' TensorFlow backend."""
    path = str(task.write(bench.scratch() / "task.json"))

    def rival(module: str, *arguments: str) -> Contestant:
        return lambda: bench.process(f"{RIVALS}.{module}", path, *arguments, deadline_s=deadline_s)

    found = {
        "sequential Keras loop": rival("loop", "1"),
        "the loop with steps_per_execution=50": rival("loop", "50"),
        "Ray Tune": rival("tune", "1"),
        "Ray Tune with steps_per_execution=50": rival("tune", "50"),
        "joblib processes": rival("joblib_processes"),
        "bare Ray actors": rival("ray_actors"),
    }
    if bench.quick:  # the same code with another number
        del found["Ray Tune with steps_per_execution=50"]
    return found


def measure(bench: Bench) -> Iterator[Figure]:
    """16-member Fashion-MNIST ensemble, cold, against Ray Tune, loops, joblib, actors"""
    if bench.quick:
        task, deadline_s = make_task("mlp", "pictures", 2, epochs=2), 240.0
    else:
        task, deadline_s = make_task("mlp", "fashion_mnist", 16, epochs=5), 1800.0
    ours = {
        f"orchestrator, {backend}": partial(run_cold, bench, task, deadline_s=deadline_s, backend=backend)
        for backend in ("tensorflow", "jax")
    }
    found = bench.run({**ours, **rivals(bench, task, deadline_s)})
    for backend in ("tensorflow", "jax"):
        own = found[f"orchestrator, {backend}"]
        for name in found:
            if not name.startswith("orchestrator"):
                rival = found[name]
                yield Figure(
                    "P1",
                    f"{len(task.seeds)} members, whole job, {backend}: times faster",
                    name,
                    ratios(rival, own),
                    bar=BARS.get((name, backend)),
                    problem=problem_of(own, rival),
                    facts={"ours": own.facts(), "rival": rival.facts()},
                )
