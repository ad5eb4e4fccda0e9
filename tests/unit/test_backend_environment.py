"""What a worker's environment says before Keras is imported, by backend and share of a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.spec import TrainSpec
from orchestrator.training.device import prepare_backend

OURS = ("CUDA_", "JAX_", "KERAS_", "OMP_", "PJRT_", "TF_", "XLA_")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Prepares from an environment without any of the variables, or with those given; puts everything back."""

    def prepare(num_gpus: float, before: Mapping[str, str] = {}, **train: Any) -> dict[str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith(OURS)} | before)
            prepare_backend(TrainSpec.model_validate(train), num_cpus=3, num_gpus=num_gpus)
            return {key: value for key, value in os.environ.items() if key.startswith(OURS)}

    return prepare


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_worker_without_a_gpu_sees_none_whatever_the_node_has(prepared: Any, backend: str) -> None:
    set_to = prepared(0, backend=backend)
    assert set_to["KERAS_BACKEND"] == backend
    assert set_to["CUDA_VISIBLE_DEVICES"] == "-1"
    assert set_to.get("JAX_PLATFORMS") == {"tensorflow": None, "jax": "cpu"}[backend]


def test_jax_gets_the_thread_budget_by_the_one_variable_that_it_heeds(prepared: Any) -> None:
    assert prepared(0, backend="jax")["PJRT_NPROC"] == "3"


@pytest.mark.parametrize(("num_gpus", "share"), [(0.25, "0.225"), (0.5, "0.450"), (1, "0.900"), (2, "0.900")])
def test_jax_takes_memory_as_it_needs_it_and_no_more_than_its_share(prepared: Any, num_gpus: float, share: str) -> None:
    set_to = prepared(num_gpus, backend="jax")
    assert "CUDA_VISIBLE_DEVICES" not in set_to
    assert "JAX_PLATFORMS" not in set_to
    assert set_to["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert set_to["XLA_PYTHON_CLIENT_MEM_FRACTION"] == share


def test_what_the_node_says_of_memory_stands(prepared: Any) -> None:
    set_to = prepared(0.5, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}, backend="jax")
    assert set_to["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.3"


def test_determinism_on_a_gpu_is_asked_of_xla_beside_the_nodes_own_flags(prepared: Any) -> None:
    flags = prepared(1, {"XLA_FLAGS": "--xla_dump_to=/d"}, backend="jax", deterministic=True)["XLA_FLAGS"].split()
    assert flags == ["--xla_dump_to=/d", "--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
    assert "XLA_FLAGS" not in prepared(1, backend="jax")
