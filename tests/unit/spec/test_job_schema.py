"""The JSON Schema for editors agrees with what the loader accepts."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from orchestrator.spec import job_schema, parse_job
from orchestrator.spec.keys import all_keys

SHORT: dict[str, Any] = {
    "name": "digits",
    "model": "jobs.digits:build_model",
    "data": "jobs.digits:load_data",
    "members": 5,
}
LONG: dict[str, Any] = {
    "name": "digits-long",
    "seed": 3,
    "model": {"builder": "jobs.digits:build_model", "kwargs": {"units": 64, "layers": [{"class_name": "Dense"}]}},
    "data": {"source": "jobs.digits:load_data", "validation_split": 0, "class_names": ["no", "yes"]},
    "members": {
        "count": 3,
        "dropout": {"min": 0.1, "max": 0.5},
        "vary": {"units": [32, 64], "rate": {"min": 0.001, "max": 0.1, "log": True}},
        "overrides": {"2": {"model": "jobs.digits:other", "seed": 4}},
    },
    "train": {
        "epochs": 3,
        "early_stopping": False,
        "checkpoint": {"save_freq": 100, "monitor": "val_accuracy"},
        "optimizer": {"class_name": "SGD", "config": {"momentum": 0.9}},
        "learning_rate": 0.1,
        "loss": {"species": "mse", "weight": {"class_name": "Huber", "config": {"delta": 2}}},
        "loss_weights": {"species": 1, "weight": 0.5},
        "metrics": {"species": ["accuracy", {"class_name": "AUC"}]},
        "class_weight": {"0": 1, "1": 4.5},
        "shuffle": False,
        "verbose": 2,
        "mixed_precision": "mixed_bfloat16",
        "steps_per_execution": 8,
        "jit_compile": False,
    },
    "ensemble": {
        "weights": [1, 2, 3],
        "quorum": 2,
        "stop_when": {"metric": "accuracy", "patience": 1},
        "gate": {"metric": "accuracy", "min": 0.9},
    },
    "resources": {"num_gpus": 0.5, "num_cpus": 2},
    "faults": {"max_crashes": 0},
    "storage": {"url": "s3://bucket/runs", "endpoint_url": "http://localhost:8333"},
    "ray": {"address": "auto"},
}


def validator() -> jsonschema.Draft202012Validator:
    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def with_int_keys(data: dict[str, Any]) -> dict[str, Any]:
    """As YAML reads it: JSON has no whole numbers as keys."""
    members = dict(data["members"])
    members["overrides"] = {int(key): value for key, value in members["overrides"].items()}
    return {**data, "members": members}


def test_the_shortest_and_a_long_job_are_valid_by_schema_and_loader() -> None:
    validator().validate(SHORT)
    validator().validate(LONG)

    parse_job(SHORT)
    parse_job(with_int_keys(LONG))


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"members": "five"},
        {"members": 0},
        {"members": {"dropout": 1}},
        {"train": {"early_stopping": True}},
        {"train": {"steps_per_execution": "fast"}},
        {"train": {"class_weight": "fair"}},
        {"train": {"loss": {"species": 3}}},
        {"train": {"verbose": 3}},
        {"data": {"source": "jobs.digits:load_data", "validation_split": {"take": "first"}}},
        {"name": "No"},
        {"model": "no reference"},
        {"ensemble": {"weights": []}},
    ],
)
def test_a_bad_job_is_invalid_by_schema(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator().validate({**SHORT, **change})


def test_the_examples_in_the_schema_are_valid() -> None:
    for example in job_schema()["examples"]:
        validator().validate(example)


def test_the_schema_is_json_and_says_what_it_is() -> None:
    schema = json.loads(json.dumps(job_schema()))

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    assert schema["description"]


def test_every_key_stands_in_the_schema_with_its_description() -> None:
    text = json.dumps(job_schema())

    assert all(f'"{key.rpartition(".")[2]}"' in text for key in all_keys())
    assert text.count('"description"') >= len(set(all_keys())) - 10
