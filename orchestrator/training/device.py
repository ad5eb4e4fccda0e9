"""What must be set before TensorFlow starts in a worker: threads, memory, determinism."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What a worker trains on, `cpu` or `gpu`, and whether it does so deterministically."""

    kind: str
    deterministic: bool


def prepare_environment(num_cpus: int, num_gpus: float) -> None:
    """Environment variables that are read while TensorFlow is imported.

    Args:
        num_cpus: the thread budget.
        num_gpus: 0 hides all GPUs: Ray does not do so for an actor that asked for none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["OMP_NUM_THREADS"] = str(num_cpus)
    if num_gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["KERAS_BACKEND"] = "tensorflow"


def start_tensorflow(num_cpus: int, deterministic: bool | None) -> Device:
    """Import TensorFlow and set it up; call once, after `prepare_environment`.

    Args:
        num_cpus: threads within an operation, the same between operations. Ray sets `OMP_NUM_THREADS` only, which
            TensorFlow's own pools ignore.
        deterministic: whether the same job must give the same bits; None: on a CPU yes, on a GPU no.
    """
    with _absent("sklearn"):
        import keras  # noqa: F401  # here and now, with TensorFlow, not at the first member
        import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(num_cpus)
    tf.config.threading.set_inter_op_parallelism_threads(num_cpus)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # or the first worker on a shared GPU takes all of its memory
        tf.config.experimental.set_memory_growth(gpu, True)
    kind = "gpu" if gpus else "cpu"
    if deterministic is None:
        deterministic = kind == "cpu"
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return Device(kind, deterministic)


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Let imports within find no `module`. Keras imports scikit-learn where it can, for wrappers that nothing here
    uses: a fifth of the time that a worker needs to start."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # how Python is told that there is no such module
    try:
        yield
    finally:
        del sys.modules[module]
