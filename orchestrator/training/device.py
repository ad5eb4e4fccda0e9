"""What must be set before Keras and its backend start in a worker: threads, memory, determinism."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import InvalidJob, OrchestratorError
from orchestrator.spec import TrainSpec
from orchestrator.training.scratch import scratch_folder

GPU_SHARE = 0.9
"""Of a GPU's memory, what JAX may take for arrays; the rest is for contexts and compiled programs."""


@dataclass(frozen=True)
class Device:
    """What a worker trains on.

    Attributes:
        kind: `cpu` or `gpu`.
        deterministic: whether the same job gives the same bits on it.
        backend: of Keras, `tensorflow` or `jax`.
    """

    kind: str
    deterministic: bool
    backend: str = "tensorflow"


def prepare_backend(train: TrainSpec, num_cpus: int, num_gpus: float) -> None:
    """Set the environment variables that are read while Keras and its backend are imported.

    Args:
        train: the job's `train:` settings: backend and determinism.
        num_cpus: the thread budget.
        num_gpus: 0 hides all GPUs: Ray does not do so for an actor that asked for none.
    """
    os.environ["KERAS_BACKEND"] = train.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # of XLA too
    os.environ["OMP_NUM_THREADS"] = str(num_cpus)
    if num_gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if train.backend == "jax":
        _prepare_jax(train, num_cpus, num_gpus)


def _prepare_jax(train: TrainSpec, num_cpus: int, num_gpus: float) -> None:
    # Alone of the thread settings this one works: --xla_cpu_multi_thread_eigen=false changes nothing (measured).
    os.environ["PJRT_NPROC"] = str(num_cpus)
    # Should the user's code or the TensorBoard callback import TensorFlow as well, it must leave the GPU to JAX.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    if num_gpus == 0:
        os.environ["JAX_PLATFORMS"] = "cpu"
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{GPU_SHARE * min(num_gpus, 1):.3f}")
    if train.wants_determinism:  # kernels chosen by timing may be others tomorrow
        flags = [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()


def start_backend(train: TrainSpec, num_cpus: int) -> Device:
    """Import Keras with its backend and set it up; call once, after `prepare_backend`.

    With JAX, TensorFlow is not imported: that saves 1.3 s of start-up and 0.4 GB of memory per worker.

    Args:
        train: the job's `train:` settings: backend, and whether the same job must give the same bits (by default on
            a CPU yes, on a GPU no).
        num_cpus: the thread budget.

    Raises:
        InvalidJob: the backend is not installed.
        OrchestratorError: Keras has been imported in this process before, with another backend.
    """
    if train.backend == "jax" and importlib.util.find_spec("jax") is None:
        raise InvalidJob(
            "the job computes with JAX, which is not installed here",
            where="train.backend",
            hint='on every node: pip install "jax>=0.6.2", or "jax[cuda12]>=0.6.2" for GPUs',
        )
    with _absent("sklearn", "pandas", "matplotlib", *(["jax"] if train.backend != "jax" else [])):
        import keras  # here and now, with its backend, not at the first member
    _draw_with_matplotlib()
    found = keras.config.backend()
    if found != train.backend:
        raise OrchestratorError(
            f"Keras was imported with its backend {found} before the job could ask for {train.backend}",
            where="train.backend",
            hint="do not import keras from sitecustomize or a Ray worker setup hook",
        )
    kind = _start_jax() if train.backend == "jax" else _start_tensorflow(num_cpus)
    deterministic = train.wants_determinism
    if deterministic is None:
        deterministic = kind == "cpu"
    if deterministic and train.backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    return Device(kind, deterministic, train.backend)


def _start_tensorflow(num_cpus: int) -> str:
    """Threads within an operation and as many between operations: Ray sets `OMP_NUM_THREADS` only, which TensorFlow's
    own pools ignore."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(num_cpus)
    tf.config.threading.set_inter_op_parallelism_threads(num_cpus)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # or the first worker on a shared GPU takes all of its memory
        tf.config.experimental.set_memory_growth(gpu, True)
    return "gpu" if gpus else "cpu"


def _start_jax() -> str:
    import jax
    from keras.src.saving import serialization_lib
    from keras.src.utils import rng_utils

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_compiled(jax.config)
    for module in (rng_utils, serialization_lib):
        if hasattr(module, "tf"):
            module.tf = _TensorFlowIfImported()
    return "cpu" if jax.default_backend() == "cpu" else "gpu"


def _keep_compiled(config: Any) -> None:
    """Keep compiled programs while this process lives: the next member's `fit` compiles the same ones again otherwise,
    1.2 s for a small model. Nobody else sees the folder: a program read from it is run."""
    kept = ExitStack()
    atexit.register(kept.close)
    config.update("jax_compilation_cache_dir", str(kept.enter_context(scratch_folder())))
    config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class _TensorFlowIfImported:
    """Stands for TensorFlow where Keras asks, whatever its backend, whether that is installed: by importing it.

    It asks in order to seed it, and to see whether a value is one of TensorFlow's. Neither needs a TensorFlow that
    nobody has imported.
    """

    @property
    def available(self) -> bool:
        return sys.modules.get("tensorflow") is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["tensorflow"], name)


def _draw_with_matplotlib() -> None:
    """Give Keras' functions that draw, which a callback may call, the Matplotlib that their import did not find."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from keras.src.visualization import plot_bounding_box_gallery, plot_image_gallery

    for module, name, drawn_with in (
        (plot_image_gallery, "plt", "matplotlib.pyplot"),
        (plot_bounding_box_gallery, "patches", "matplotlib.patches"),
    ):
        if getattr(module, name, drawn_with) is None:
            setattr(module, name, _ImportedWhenUsed(drawn_with))


class _ImportedWhenUsed:
    """Stands for a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


def peak_memory_bytes() -> int:
    """The most memory that this process has had, pages that it shares with others included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB elsewhere


def peak_gpu_bytes(device: Device) -> int | None:
    """The most memory that this process' arrays have had on its first GPU; None on a CPU, or where nobody counts."""
    if device.kind == "cpu":
        return None
    if device.backend == "jax":
        import jax

        told = jax.local_devices()[0].memory_stats() or {}
        return told.get("peak_bytes_in_use")
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


@contextmanager
def _absent(*modules: str) -> Iterator[None]:
    """Let imports within find none of the modules. Keras imports scikit-learn, pandas and Matplotlib where it can, for
    wrappers, adapters and pictures, and TensorFlow imports JAX to convert its models: none is what a worker needs to
    train, and together they are half of the CPU time of the import (4.5 s with them, 2.3 s without, measured)."""
    hidden = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: how Python is told that there is none
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]
