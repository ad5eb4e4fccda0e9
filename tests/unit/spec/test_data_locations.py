"""`data:` in files: what is refused without looking there, and what a run's identity says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob
from orchestrator.spec import check_job, code_digest, identity, job_schema, parse_job
from orchestrator.spec.sources import kind_of

TABLE: dict[str, Any] = {"source": "data/rows.csv", "label": "y"}


def job(data: Any) -> Any:
    return parse_job({"name": "a", "model": "m:build", "data": data})


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("rows.npz", "npz"),
        ("data/Rows.CSV", "csv"),
        ("s3://bucket/a/rows.parquet", "parquet"),
        ("s3://my.bucket", "folder"),
        ("file:///data/rows.csv", "csv"),
        ("../rows", "folder"),
        ("..", "folder"),
        ("v1.2/", "folder"),
        ("year=2024", "folder"),
        ("v1.2", None),
        ("rows.tsv", None),
    ],
)
def test_the_name_tells_the_kind(location: str, kind: str | None) -> None:
    assert kind_of(location) == kind


GOOD: list[Any] = [
    "rows.npz",
    TABLE,
    {**TABLE, "features": ["a", "b"], "weight": "w"},
    {**TABLE, "features": "pixels", "label": ["a", "b"]},
    {**TABLE, "features": {"a": "a", "b": ["b"], "c": {"columns": ["c*"], "dtype": "int32", "shape": [2, 2]}}},
    {**TABLE, "label": {"kind": "kind", "size": ["width", "height"]}},
    {**TABLE, "source": {"train": "a/", "validation": "b.parquet", "test": "s3://bucket/c.csv"}},
]


@pytest.mark.parametrize("data", GOOD)
def test_good_jobs_are_good_by_loader_and_schema_and_survive_their_own_dump(data: Any) -> None:
    made = job(data)

    assert parse_job(made.model_dump()) == made
    jsonschema.Draft202012Validator(job_schema()).validate({"name": "a", "model": "m:build", "data": data})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("jobs.digits", "ends with .digits, and only .npz, .csv and .parquet can be read"),
        ({**TABLE, "source": "rows.xlsx"}, "ends with .xlsx"),
        ({**TABLE, "source": {"train": "rows.pickle"}}, "data.source.train ends with .pickle"),
        ({**TABLE, "source": "http://host/rows.csv"}, "the scheme http:// is unknown"),
        ({**TABLE, "source": "s3://user:password@bucket/rows.csv"}, "must not contain a user or password"),
        ({**TABLE, "source": {"test": "rows.csv"}}, "data.source.train is missing"),
        ({"source": "rows.csv"}, "data.label is missing: name the column"),
        ({**TABLE, "source": "m:load"}, "data.label is for data in files, and data.source is a function"),
        ({"source": "m:load", "features": ["a"]}, "data.features is for data in files"),
        ({"source": "m:load", "stream": True}, "data.stream is for data in files"),
        ({**TABLE, "groups": "g", "stream": True}, "data.groups needs the training rows in memory"),
        ({"source": "m:load", "groups": "g"}, "data.groups is for data in files"),
        ({"source": "rows.npz", "stream": True}, "data.stream is for columns"),
        ({**TABLE, "stream": {"window_mb": 0}}, "must be above 0"),
        ({"source": "rows.npz", "weight": "w"}, "data.weight is for columns, and an .npz has arrays"),
        ({**TABLE, "source": {"train": "a.npz", "test": "b.csv"}}, "mixes .npz with tables"),
        ({**TABLE, "features": []}, "data.features must not be empty"),
        ({**TABLE, "features": {"a": {"columns": ["b"], "dtype": "string"}}}, "data.features.a.dtype must be"),
        ({**TABLE, "features": {"a": {"columns": ["b"], "shape": [0]}}}, "must be at least 1"),
        ({**TABLE, "features": {"a": {"column": "b"}}}, "did you mean"),
    ],
)
def test_what_cannot_be_is_refused_without_reading(data: Any, said: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        job(data)
    assert said in str(caught.value)
    assert "user:password" not in str(caught.value)


@pytest.mark.parametrize(("stream", "window_mb"), [(False, None), (True, 128), ({}, 128), ({"window_mb": 0.5}, 0.5)])
def test_rows_are_streamed_in_windows_of_a_size(tmp_path: Path, stream: Any, window_mb: float | None) -> None:
    (tmp_path / "m.py").write_text("def build(): ...\n", encoding="utf-8")
    made = job({**TABLE, "stream": stream})

    assert (made.data.streaming and made.data.streaming.window_mb) == window_mb
    assert api.plan(made, root=str(tmp_path)).may_fuse == (window_mb is None)


def test_files_need_no_data_function_and_are_no_code(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def build(): ...\n", encoding="utf-8")

    assert check_job(job(TABLE), str(tmp_path)).data is None
    assert code_digest(job(TABLE), str(tmp_path)).files == ("m.py",)


def test_the_identity_holds_the_location_as_written_and_workers_get_it_absolute(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def build(): ...\n", encoding="utf-8")
    sources = {"train": "data/train", "validation": "s3://bucket/v", "test": "v1.2/"}

    planned = api.plan(job({**TABLE, "source": sources}), root=str(tmp_path))

    assert planned.identity["data"]["source"] == sources
    given = planned.request.job.data.source
    assert (given.train, given.validation) == (str(tmp_path / "data" / "train"), "s3://bucket/v")
    assert given.test == f"{tmp_path}/v1.2/"
    assert api.plan(job(TABLE), root=str(tmp_path)).request.job.data.source == str(tmp_path / "data" / "rows.csv")
    assert identity(job({**TABLE, "label": "z"}), "c") != identity(job(TABLE), "c")
