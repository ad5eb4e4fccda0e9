"""Training on Keras' JAX backend: real runs on Ray, and in a process of its own what holds for TensorFlow as well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob, OrchestratorError
from orchestrator.spec import TrainSpec
from orchestrator.training.device import Device, start_backend
from tests.support.tiny_jobs import TinyProject

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
JAX = TrainSpec(backend="jax")

WITNESS = """
import os
import sys
from pathlib import Path

import keras


class Witness(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        seen = sorted({"jax", "tensorflow"} & set(sys.modules))
        with Path(__file__).with_suffix(".seen").open("a") as file:
            print(os.getpid(), keras.config.backend(), *seen, file=file)
"""


def test_a_run_on_jax_needs_no_tensorflow_in_its_worker(project: TinyProject, ray_session: None) -> None:
    """Both members live in one process, from build to prediction: the second one is the witness of the first."""
    witness = project.folder / f"{project.name}_witness.py"
    witness.write_text(WITNESS, encoding="utf-8")
    train = {"backend": "jax", "engine": "solo", "epochs": 3, "callbacks": [f"{witness.stem}:Witness"]}
    result = api.run(project.job(train=train, resources={"concurrency": 1}), root=str(project.folder))

    assert result.status == "succeeded"
    assert {"jax", "jaxlib", "keras", "numpy", "python"} == set(result.versions)
    assert result.validation is not None
    assert result.validation.ensemble.n == 60
    assert [member.epochs for member in result.members] == [3, 3]
    first, second = (line.split() for line in witness.with_suffix(".seen").read_text().splitlines())
    assert first == second
    assert first[1:] == ["jax", "jax"], "the backend, and what was imported"


NUM_THREADS = """
import sys
from pathlib import Path

from orchestrator.spec import TrainSpec
from orchestrator.training.device import prepare_backend

prepare_backend(TrainSpec(backend="jax"), num_cpus=int(sys.argv[1]), num_gpus=0)
import jax

square = jax.numpy.ones((600, 600))
(square @ square).block_until_ready()
print(len(list(Path("/proc/self/task").iterdir())))
"""


def test_threads_follow_the_budget() -> None:
    def count(num_cpus: int) -> int:
        asked = [sys.executable, "-c", NUM_THREADS, str(num_cpus)]
        return int(subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout)

    assert count(5) - count(1) >= 4


def test_what_holds_for_tensorflow_holds_for_jax() -> None:
    """Exact resume, steps per execution, publication, divergence, memory: see `tests/support/jax_cases.py`."""
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/support/jax_cases.py"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ passed(, \d+ warnings?)? in", done.stdout, re.MULTILINE), "nothing was left out"


def test_a_worker_without_jax_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)  # how Python is told that there is no such module
    with pytest.raises(InvalidJob, match=r"train\.backend: .*JAX, which is not installed here") as refused:
        start_backend(JAX, num_cpus=1)
    assert "pip install" in str(refused.value)


def test_a_process_that_has_another_backend_is_refused(device: Device) -> None:
    with pytest.raises(OrchestratorError, match="backend tensorflow before the job could ask for jax"):
        start_backend(JAX, num_cpus=1)
