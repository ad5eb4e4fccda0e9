"""The models of the job: defaults, short forms, freezing, and agreement with Keras' own arguments."""

from __future__ import annotations

import ast
import importlib.util
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import InvalidJob
from orchestrator.spec import (
    CheckpointSpec,
    EarlyStoppingSpec,
    Job,
    KerasObject,
    ModelSpec,
    Range,
    ValidationSplitSpec,
    parse_job,
)
from orchestrator.spec.base import Spec

SHORTEST: dict[str, Any] = {"name": "digits", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data"}


def job(**changes: Any) -> Job:
    return parse_job({**SHORTEST, **changes})


def test_the_shortest_job_has_every_default() -> None:
    made = job(members=5)

    assert made.model == ModelSpec(builder="jobs.digits:build_model", kwargs={})
    assert made.validation_split == ValidationSplitSpec(share=0.2, take="stratified")
    assert (made.seed, made.members.count, made.members.dropout) == (0, 5, None)
    assert (made.train.epochs, made.train.batch_size, made.train.steps_per_execution) == (10, 32, "auto")
    assert made.train.early_stopping == EarlyStoppingSpec(patience=5, restore_best_weights=True)
    assert made.train.checkpoint.save_best_only
    assert (made.ensemble.weights, made.ensemble.quorum, made.ensemble.gate) == (None, None, None)
    assert (made.resources.num_gpus, made.resources.num_cpus, made.resources.concurrency) == (None, None, None)
    assert (made.faults.max_crashes, made.faults.max_out_of_memory, made.faults.node_wait_s) == (3, 2, 1800.0)
    assert (made.storage.url, made.ray.address) == ("runs", None)


def test_short_forms_and_long_forms_are_the_same_job() -> None:
    long = job(
        model={"builder": "jobs.digits:build_model"}, data={"source": "jobs.digits:load_data"}, members={"count": 3}
    )

    assert long == job(members=3)


def test_a_members_own_model_may_be_a_plain_reference() -> None:
    made = job(members={"count": 2, "overrides": {1: {"model": "jobs.digits:build_other"}}})

    assert made.members.overrides[1].model == ModelSpec(builder="jobs.digits:build_other")


def test_whole_numbers_are_taken_for_floats_but_stay_whole_in_ranges() -> None:
    made = job(train={"early_stopping": {"min_delta": 1}}, members={"vary": {"units": {"min": 8, "max": 64}}})

    assert made.train.early_stopping is not None
    assert type(made.train.early_stopping.min_delta) is float
    axis = made.members.vary["units"]
    assert isinstance(axis, Range)
    assert (type(axis.min), type(axis.max)) == (int, int)
    assert type(Range(min=0, max=0.5).max) is float


@pytest.mark.parametrize("value", ["spot", "!spot", "in(a, b)", "!in(a,b)", "A100", "a.b_c-d"])
def test_nodes_are_selected_by_labels_in_rays_syntax(value: str) -> None:
    assert job(resources={"labels": {"ray.io/market-type": value}}).resources.labels["ray.io/market-type"] == value


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"market": "spot!"}, "labels.market must be a label's value"),
        ({"market": ""}, "labels.market must be a label's value"),
        ({"market": "in()"}, "labels.market must be a label's value"),
        ({"market": "-spot"}, "labels.market must be a label's value"),
        ({"market": "a" * 64}, "labels.market must be a label's value"),
        ({"my market": "spot"}, "is no label"),
        ({"a//b": "spot"}, "is no label"),
        ({"gpu": True}, "labels"),
    ],
)
def test_what_ray_would_refuse_of_a_label_is_refused_before(labels: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(said)):
        job(resources={"labels": labels})


@pytest.mark.parametrize("off", [None, False])
def test_null_and_false_switch_early_stopping_off(off: object) -> None:
    assert job(train={"early_stopping": off}).train.early_stopping is None


def test_optimizer_loss_and_metrics_are_names_or_objects() -> None:
    adam = {"class_name": "Adam", "config": {"learning_rate": 1e-3}}
    made = job(train={"optimizer": adam, "loss": "mse", "metrics": ["accuracy", {"class_name": "AUC"}]})

    assert made.train.optimizer == KerasObject(class_name="Adam", config={"learning_rate": 1e-3})
    assert made.train.loss == "mse"
    assert made.train.metrics == ("accuracy", KerasObject(class_name="AUC"))


def test_lists_become_tuples_and_values_are_copied() -> None:
    kwargs = {"layers": [1, 2]}
    made = job(model={"builder": "m:f", "kwargs": kwargs}, members={"count": 2, "dropout": [0.1, 0.2]})

    kwargs["layers"].append(3)

    assert made.members.dropout == (0.1, 0.2)
    assert made.model.kwargs == {"layers": [1, 2]}


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job().name = "other"  # type: ignore[misc]


def test_a_job_pickles_and_survives_its_own_dump() -> None:
    made = job(
        members={"count": 3, "dropout": {"min": 0.1, "max": 0.5}, "vary": {"a": [1, "x", None]}, "overrides": {2: {}}},
        train={"metrics": ["accuracy"], "optimizer": {"class_name": "SGD"}},
        ensemble={"weights": [1, 2, 3], "gate": {"metric": "accuracy", "min": 0.5}},
    )

    assert pickle.loads(pickle.dumps(made)) == made
    assert parse_job(made.model_dump()) == made


def test_every_field_of_every_part_has_a_description() -> None:
    bare = [
        f"{part.__name__}.{name}"
        for part in parts()
        for name, info in part.model_fields.items()
        if not info.description
    ]

    assert bare == []


def parts() -> Iterator[type[Spec]]:
    waiting = list(Spec.__subclasses__())
    assert Job in waiting
    yield from waiting


@pytest.mark.parametrize(
    ("spec", "module", "class_name", "ours"),
    [
        (EarlyStoppingSpec, "early_stopping", "EarlyStopping", set()),
        (CheckpointSpec, "model_checkpoint", "ModelCheckpoint", {"filepath"}),
    ],
)
def test_callback_settings_are_exactly_keras_arguments(
    spec: type[Spec], module: str, class_name: str, ours: set[str]
) -> None:
    assert set(spec.model_fields) == set(keras_arguments(module, class_name)) - ours


def keras_arguments(module: str, class_name: str) -> list[str]:
    """Arguments of a callback's constructor, read from Keras' source without importing it."""
    found = importlib.util.find_spec("keras")
    assert found is not None
    assert found.submodule_search_locations is not None
    source = Path(found.submodule_search_locations[0], "src", "callbacks", f"{module}.py")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for function in node.body:
                if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                    return [argument.arg for argument in function.args.args if argument.arg != "self"]
    raise AssertionError(f"no constructor of {class_name} in {source}")


def test_importing_the_spec_loads_no_heavy_library() -> None:
    code = (
        "import sys, orchestrator.spec; "
        "print({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'ray', 'numpy', 's3fs'})"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (["a", "b", "a"], "class_names.2"),
        (["a", ""], "class_names.1"),
        ([0, 1], "class_names.0"),
        ([], "class_names"),
        ({"species": ["a", "b", "a"]}, "class_names.species.2"),
        ({"species": []}, "class_names.species"),
        ({"": ["a"]}, "class_names"),
        ("a", "class_names"),
    ],
)
def test_names_of_classes_are_texts_of_which_each_stands_once(names: Any, where: str) -> None:
    data = {"source": "jobs.digits:load_data"}
    assert job(data={**data, "class_names": ["a", "b"]}).data.class_names == ("a", "b")
    by_output = {"species": ["a", "b"], "sex": ["a", "b"]}
    assert job(data={**data, "class_names": by_output}).data.class_names == dict.fromkeys(by_output, ("a", "b"))
    with pytest.raises(InvalidJob) as caught:
        job(data={**data, "class_names": names})
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (
            {"vary": {"train.batch_sise": [32]}},
            r"vary.train.batch_sise names .*did you mean train.batch_size\?",
        ),
        ({"vary": {"train.batch_size": [32, 0]}}, r"members.vary.train.batch_size.*greater than or equal to 1"),
        (
            {"overrides": {0: {"train": {"early_stopping.patiense": 3}}}},
            r"mean train.early_stopping.patience\?",
        ),
        ({"vary": {"train.optimizer.config.learning_rate": [0.1]}}, "set train.optimizer, or name train.learning_rate"),
        ({"vary": {"train.backend": ["jax"]}}, "is the same for all members of a run"),
        ({"vary": {"train.epochs.more": [1]}}, "goes below train.epochs, which is a plain value"),
        ({"vary": {"fit.epochs": [1]}}, "names neither a keyword of the build function nor a setting below"),
        ({"overrides": {0: {"train": {"epochs": 0}}}}, "members.overrides.0.train.epochs"),
        ({"overrides": {0: {"train": {"callbacks.0": "CSVLogger"}}}}, "no entry 0 in the list"),
    ],
)
def test_a_members_own_setting_that_train_does_not_have_is_refused(members: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidJob, match=told):
        job(members={"count": 2, **members})
