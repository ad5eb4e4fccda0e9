"""`train.backend` and `train.engine`: what they may be, what they rule out, and that they make another run."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import Job, TrainSpec, identity, parse_job


def job(**train: Any) -> Job:
    return parse_job({"name": "tiny", "model": "m:build", "data": "m:load", "train": train})


def test_by_default_tensorflow_computes_and_the_engine_is_chosen() -> None:
    assert (job().train.backend, job().train.engine) == ("tensorflow", "auto")


@pytest.mark.parametrize("key", ["backend", "engine"])
def test_another_backend_or_engine_is_refused_with_those_that_there_are(key: str) -> None:
    with pytest.raises(InvalidJob, match=rf"train\.{key}") as refused:
        job(**{key: "torch"})
    assert all(name in str(refused.value) for name in {"backend": ("tensorflow", "jax"), "engine": ("solo",)}[key])


def test_jax_without_its_compiler_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"train\.jit_compile .*leave it out"):
        job(backend="jax", jit_compile=False)
    assert job(jit_compile=False).train.jit_compile is False


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        ({}, None),
        ({"deterministic": True}, True),
        ({"jit_compile": True}, False),  # Keras does not use TensorFlow's XLA in that mode
        ({"jit_compile": True, "backend": "jax"}, None),
        ({"jit_compile": True, "backend": "jax", "deterministic": True}, True),
    ],
)
def test_xla_rules_determinism_out_on_tensorflow_alone(train: dict[str, Any], wanted: bool | None) -> None:
    assert TrainSpec.model_validate(train).wants_determinism is wanted


@pytest.mark.parametrize("changed", [{"backend": "jax"}, {"engine": "solo"}, {"engine": "fused"}])
def test_backend_and_engine_belong_to_the_identity(changed: dict[str, str]) -> None:
    assert identity(job(**changed), "code") != identity(job(), "code")
