"""`key=value` overrides on the document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.spec import Document, Job, KerasObject, ModelSpec, Range, apply_overrides, load_job

JOB = """\
name: digits
model: jobs.digits:build_model
data: jobs.digits:load_data
members: 5
train:
  early_stopping: false
  optimizer: adam
  metrics: [accuracy]
"""


def load(folder: Path, *overrides: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return load_job(path, overrides)


def test_values_follow_the_files_own_rules_for_scalars(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        "train.epochs=20",
        "train.early_stopping.min_delta=1e-4",
        "train.deterministic=true",
        "model.kwargs.activation=on",
        "model.kwargs.colour=#fff",
        "model.kwargs.text=a: b",
        "model.kwargs.nothing=",
        "model.kwargs.quoted='1'",
        "storage.url=s3://bucket/x=y",
    )

    assert job.train.epochs == 20
    assert job.train.early_stopping is not None
    assert job.train.early_stopping.min_delta == 1e-4
    assert job.train.deterministic is True
    assert job.model.kwargs == {"activation": "on", "colour": "#fff", "text": "a: b", "nothing": None, "quoted": "1"}
    assert job.storage.url == "s3://bucket/x=y"


def test_lists_and_mappings_can_be_given(tmp_path: Path) -> None:
    job = load(tmp_path, "members.dropout=[.1, .2]", "members.vary.units={min: 8, max: 64}")

    assert job.members.dropout == (0.1, 0.2)
    assert job.members.vary == {"units": Range(min=8, max=64)}


def test_short_forms_are_expanded_where_an_override_goes_below_them(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        "members.overrides.3.dropout=.2",
        "members.overrides.4.model=jobs.digits:other",
        "members.overrides.4.model.kwargs.units=8",
        "data.validation_split=0",
        "model.kwargs.units=64",
        "train.optimizer.config.learning_rate=1e-3",
    )

    assert job.members.count == 5
    assert job.members.overrides[3].dropout == 0.2
    assert job.members.overrides[4].model == ModelSpec(builder="jobs.digits:other", kwargs={"units": 8})
    assert (job.data.source, job.data.validation_split.share) == ("jobs.digits:load_data", 0)
    assert job.model == ModelSpec(builder="jobs.digits:build_model", kwargs={"units": 64})
    assert job.train.optimizer == KerasObject(class_name="adam", config={"learning_rate": 1e-3})


def test_what_is_switched_off_comes_back_when_a_key_below_it_is_set(tmp_path: Path) -> None:
    assert load(tmp_path).train.early_stopping is None
    restored = load(tmp_path, "train.early_stopping.patience=9").train.early_stopping
    assert restored is not None
    assert restored.patience == 9


def test_an_entry_of_a_list_can_be_replaced(tmp_path: Path) -> None:
    assert load(tmp_path, "train.metrics.0=mse").train.metrics == ("mse",)
    assert load(tmp_path, "members.dropout=[.1,.2]", "members.dropout.1=.3").members.dropout == (0.1, 0.3)


def test_the_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "train.epochs=2", "train.epochs=3").train.epochs == 3
    assert load(tmp_path, "train.epochs=2", "train={batch_size: 8}").train.epochs == 10


def test_the_document_itself_is_not_changed() -> None:
    data: dict[str, Any] = {"members": {"dropout": [0.1]}}

    changed = apply_overrides(Document(data, "job.yaml"), ["members.dropout.0=.2", "seed=4"])

    assert data == {"members": {"dropout": [0.1]}}
    assert changed.data == {"members": {"dropout": [0.2]}, "seed": 4}


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("train.epochs", ["override 'train.epochs'", "key=value"]),
        ("=5", ["key=value"]),
        ("train..epochs=5", ["key=value"]),
        ("train.epocs=5", ["override train.epocs", "did you mean train.epochs?"]),
        ("trian.epochs=5", ["there is no key trian", "did you mean train.epochs?"]),
        ("epochs=5", ["did you mean train.epochs?"]),
        ("train.zzzzz=5", ["the keys there are epochs"]),
        ("seed.x=5", ["there is no key seed.x"]),
        ("members.overrides.x.dropout=.1", ["whole numbers from 0, not 'x'"]),
        ("members.overrides.9.dropout=.1", ["there is no member 9"]),
        ("members.overrides.1.dropuot=.1", ["did you mean members.overrides.1.dropout?"]),
        ("train.metrics.1=mse", ["is a list of 1, without an entry 1", "give the whole list"]),
        ("members.dropout.0=.1", ["is no list yet"]),
        ("train.epochs=many", ["override train.epochs: train.epochs must be a whole number, not the text 'many'"]),
        ("train.epochs=[1", ["override train.epochs", "not valid YAML"]),
        ("train.epochs=99999999999999999999999", ["override train.epochs", "64 bits"]),
        ("name.x=1", ["there is no key name.x"]),
    ],
)
def test_a_bad_override_is_refused_by_name_with_the_nearest_key(
    tmp_path: Path, override: str, fragments: list[str]
) -> None:
    with pytest.raises(InvalidJob) as caught:
        load(tmp_path, override)

    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_key_below_a_plain_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"model\.kwargs\.units is a plain value"):
        load(tmp_path, "model.kwargs.units=3", "model.kwargs.units.x=4")


def test_a_secret_in_an_override_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for override in ("storage.url=AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE", "model.kwargs.password=hunter2"):
        with pytest.raises(InvalidJob) as caught:
            load(tmp_path, override)

        assert "AKIAIOSFODNN7EXAMPLE" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
