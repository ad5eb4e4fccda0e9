"""The JSON Schema of a job, for editors."""

from __future__ import annotations

from typing import Any

from orchestrator.spec.base import Spec
from orchestrator.spec.job import Job
from orchestrator.spec.members import DataSpec, FoldsSpec, MembersSpec, ModelSpec, ValidationSplitSpec
from orchestrator.spec.transfer import BaseSpec

_EXAMPLES: list[dict[str, Any]] = [
    {"name": "digits", "model": "jobs.digits:build_model", "data": "jobs.digits:load_data", "members": 5},
    {
        "name": "digits-wide",
        "seed": 7,
        "model": {"builder": "jobs.digits:build_model", "kwargs": {"units": 128}},
        "data": {"source": "jobs.digits:load_data", "validation_split": 0.2},
        "members": {
            "count": 4,
            "dropout": [0.1, 0.2, 0.3, 0.4],
            "vary": {"units": {"min": 64, "max": 256}},
            "overrides": {"3": {"dropout": 0.5}},
        },
        "train": {"epochs": 20, "early_stopping": {"patience": 3}, "optimizer": "adam"},
        "ensemble": {"weights": [0.5, 0.25, 0.1, 0.15], "quorum": 3},
    },
]


def job_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a job file, short forms included.

    Checks between keys (a weight for each member, `min` below `max`) are not part of it: `validate` knows them.
    """
    schema = Job.model_json_schema()
    definitions = schema["$defs"]
    for spec in (ModelSpec, BaseSpec, DataSpec, MembersSpec, FoldsSpec, ValidationSplitSpec):
        definitions[spec.__name__] = _with_short_form(spec, definitions[spec.__name__])
    early_stopping = definitions["TrainSpec"]["properties"]["early_stopping"]
    early_stopping["anyOf"].append({"const": False})
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Ensemble training job"}
    return {**head, **{key: value for key, value in schema.items() if key != "title"}, "examples": _EXAMPLES}


def _with_short_form(spec: type[Spec], definition: dict[str, Any]) -> dict[str, Any]:
    short = definition["properties"][spec.short_form]
    shorts = [each for each in short.get("oneOf", [short]) if "$ref" not in each]  # a mapping is no short form
    alternative = {key: value for key, value in shorts[0].items() if key not in ("title", "default")}
    return {"description": definition.get("description"), "anyOf": [alternative, definition]}
