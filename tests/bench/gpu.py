"""P9: LeNet-5 ensembles on one GPU, with Keras' JAX backend: `python -m tests.bench.gpu [--quick] [--out FILE.json]`.

It needs no network, no TensorFlow and no Ray: JAX for the device, Keras, h5py, pydantic, PyYAML and this repository,
with Fashion-MNIST in the folder that FASHION_MNIST names. Every measurement is a process of its own. On a machine
without a GPU only `--quick` makes sense.

The protocol is that of google/uncertainty-baselines, baselines/mnist: 50,000 rows, batch 256, 25 epochs (4,900 steps),
Adam 1e-3, no dropout, no augmentation, no early stopping, the weights after the last step; scored on the 10,000 test
rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.harness import Bar, Bench, Figure, problem_of, ratios
from tests.bench.machine import machine_facts
from tests.bench.table import text, to_json
from tests.bench.tasks import Task, make_task

HERE = "tests.bench.gpu"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FORWARD_FLOP = 2 * (28 * 28 * 6 * 25 + 14 * 14 * 16 * 25 * 6 + 7 * 7 * 120 * 25 * 16 + 7 * 7 * 120 * 84 + 84 * 10)
"""Of one picture through LeNet-5, multiplications and additions; training takes three times that."""

TRAIN_FLOP = 3 * FORWARD_FLOP
BINS = 15


def measure(bench: Bench) -> Iterator[Figure]:
    """10 × LeNet-5 on Fashion-MNIST with the JAX backend, and the throughput of packs"""
    data = "pictures_test" if bench.quick else "fashion_50k"
    task = partial(make_task, "lenet5", data, batch_size=256, patience=None, takes_dropout=False)
    folder = bench.scratch()
    ensemble = str(task(2 if bench.quick else 10, epochs=2 if bench.quick else 25).write(folder / "ensemble.json"))
    whole = bench.run({"ensemble": lambda: bench.process(HERE, "ensemble", ensemble, deadline_s=580)})["ensemble"]
    seconds = tuple(outcome.seconds for outcome in whole.outcomes)
    about = {"values": seconds, "unit": "s", "problem": problem_of(whole), "facts": {"rounds": whole.facts()}}
    yield Figure("P9", "10 × LeNet-5, whole cold process", bar=Bar(60, at_most=True), **about)
    for name, bar in {
        "accuracy": Bar(0.932 - 0.005),  # two standard errors on 10,000 rows
        "nll": Bar(0.200 + 0.01, at_most=True),
        "ece": Bar(0.010 + 0.01, at_most=True),
        "members_accuracy": None,
    }.items():
        values = tuple(float(outcome.facts[name]) for outcome in whole.outcomes)
        yield Figure("P9", f"its {name} on the test set", "published: 0.932, 0.200, 0.010", values, "", bar)
    one = str(task(1, epochs=3).write(folder / "one.json"))
    fit = bench.run({"fit": lambda: bench.process(HERE, "fit", one, deadline_s=580)})["fit"]
    for size in (2,) if bench.quick else SIZES:
        path = str(task(size, epochs=3).write(folder / f"pack-{size}.json"))
        pack = bench.run({"pack": lambda path=path: bench.process(HERE, "pack", path, deadline_s=580)})["pack"]
        yield Figure(
            "P9",
            f"pack of {size}: throughput as a multiple",
            "sequential Keras fit",
            ratios(pack, fit, lambda outcome: float(outcome.facts["examples_per_s"])),
            bar=Bar(10) if size == 16 else None,
            problem=problem_of(pack, fit),
            facts={"ours": pack.facts(), "rival": fit.facts()},
        )
        shares = tuple(100 * float(outcome.facts["share_of_limit"]) for outcome in pack.outcomes)
        yield Figure("P9", f"pack of {size}: share of the device's float32 matrix product", "", shares, "%")


def start(path: str) -> Any:
    """This process with JAX and the task's data, on the GPU where there is one."""
    from tests.bench.warm import Warm

    num_gpus = 0 if machine_facts()["GPU"] == "none" else 1
    unchosen = {"checkpoint": {"save_best_only": False}}  # the weights after the last step
    return Warm.start(Task.read(path), os.cpu_count() or 1, num_gpus=num_gpus, backend="jax", **unchosen)


def ensemble(path: str) -> Mapping[str, Any]:
    """Train the members as one pack, and score the average of their predictions on the test set."""
    from orchestrator.models.predictor import Predictor
    from orchestrator.planning.outputs import ONLY

    warm, predictor = start(path), Predictor()
    x, y = warm.dataset.test.x, warm.dataset.test.y
    found: dict[int, Any] = {}

    def on_end(member: int, trained: Any) -> None:
        found[member] = predictor.predict(trained.model, x)[ONLY]

    warm.train("fused", lambda member, epoch, logs: None, on_end)
    stacked = np.stack([found[member] for member in sorted(found)])
    return {**scores(stacked.mean(axis=0), y), "members_accuracy": float((stacked.argmax(axis=2) == y).mean())}


def scores(probabilities: Any, y: Any) -> dict[str, float]:
    """Accuracy, negative log-likelihood, and the expected calibration error over 15 bins of equal width (Naeini 2015).

    Args:
        probabilities: [N, C].
        y: class indices [N].
    """
    sure, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(hit[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    nll = -np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-12)).mean()
    return {"accuracy": float(hit.mean()), "nll": float(nll), "ece": float(sum(gaps))}


def pack(path: str) -> Mapping[str, Any]:
    """Throughput of all members as one pack, warm, and what share of the device's limit that is."""
    warm = start(path)
    ends: dict[int, float] = {}
    warm.train("fused", lambda member, epoch, logs: ends.__setitem__(epoch, time.perf_counter()))
    epoch_s = statistics.median(ends[epoch] - ends[epoch - 1] for epoch in sorted(ends)[1:])
    rate = len(warm.members) * warm.dataset.train.num_rows / epoch_s
    limit = matrix_product_flop_per_s()
    return {
        "examples_per_s": rate,
        "epoch_s": epoch_s,
        "limit_tflop_per_s": limit / 1e12,
        "share_of_limit": rate * TRAIN_FLOP / limit,
    }


def fit(path: str) -> Mapping[str, Any]:
    """Throughput of Keras' own `fit`, as everybody writes it, warm: what a sequential loop has for each member."""
    from tests.bench import models

    warm = start(path)
    import keras

    ends = []
    model = models.lenet5()
    x, y = warm.dataset.train.x, warm.dataset.train.y
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    model.fit(x, y, batch_size=256, epochs=3, verbose=0, callbacks=[told])
    epoch_s = statistics.median(after - before for before, after in pairwise(ends))
    return {"examples_per_s": len(y) / epoch_s, "epoch_s": epoch_s}


def matrix_product_flop_per_s() -> float:
    """What the device does at best, measured: a large product of float32 matrices in JAX's default precision."""
    import jax

    size = 8192 if jax.default_backend() != "cpu" else 1024
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    times = []
    for _ in range(10):
        began = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - began)
    return float(2 * size**3 / statistics.median(times))


def main(arguments: list[str]) -> int:
    """The script; with the name of a measurement, the process that is measured."""
    measurements = {"ensemble": ensemble, "pack": pack, "fit": fit}
    if arguments and arguments[0] in measurements:
        what, path, report = arguments
        Path(report).write_text(json.dumps(dict(measurements[what](path))))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description="Measure P9 on one GPU.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests the script, on a CPU too; no verdicts")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also as JSON")
    asked = parser.parse_args(arguments)
    machine = machine_facts()
    if machine["GPU"] == "none" and not asked.quick:
        parser.error("there is no GPU here; --quick tests the script without one")
    figures = []
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-", ignore_cleanup_errors=True) as folder:
        for figure in measure(Bench(quick=asked.quick, rounds=None, folder=Path(folder))):
            figures.append(figure)
            if asked.out is not None:
                asked.out.write_text(json.dumps(to_json(machine, figures, quick=asked.quick), indent=1))
    print(text(machine, figures, quick=asked.quick))
    return int(any(figure.verdict(quick=asked.quick) in ("MISSED", "NOT MEASURED") for figure in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
