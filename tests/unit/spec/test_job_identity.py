"""The identity of a run: what belongs to it, what does not, and how a difference is told."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec import (
    Job,
    code_digest,
    default_run_id,
    difference,
    differing,
    identity,
    identity_digest,
    parse_job,
)


def job(**changes: Any) -> Job:
    return parse_job({"name": "digits", "model": "jobs.digits:build", "data": "jobs.digits:load", **changes})


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(root)


def digest_of(made: Job, code: str = "c0de") -> str:
    return identity_digest(identity(made, code))


def test_the_identity_has_exactly_the_parts_that_change_the_numbers() -> None:
    what = identity(job(), "c0de")

    assert set(what) == {"name", "seed", "model", "data", "members", "train", "ensemble", "code"}
    assert what["train"]["epochs"] == 10
    assert what["code"] == "c0de"


@pytest.mark.parametrize(
    "changes",
    [
        {"resources": {"num_cpus": 4}},
        {"faults": {"max_crashes": 0}},
        {"storage": {"url": "elsewhere"}},
        {"ray": {"address": "auto"}},
        {"members": 5},
        {"members": {"count": 5}},
        {"train": {"epochs": 10, "early_stopping": {"patience": 5}}},
        {"train": {"early_stopping": {"min_delta": 0}}},
        {"model": {"kwargs": {}, "builder": "jobs.digits:build"}},
    ],
)
def test_what_may_change_on_resume_and_how_it_is_written_do_not_count(changes: dict[str, Any]) -> None:
    assert digest_of(job(**changes)) == digest_of(job())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"seed": 1},
        {"members": 6},
        {"train": {"epochs": 11}},
        {"ensemble": {"quorum": 3}},
        {"ensemble": {"stop_when": {"patience": 3}}},
        {"model": {"builder": "jobs.digits:build", "kwargs": {"units": 1}}},
        {"data": {"source": "jobs.digits:load", "validation_split": 0.3}},
    ],
)
def test_whatever_changes_the_numbers_counts(changes: dict[str, Any]) -> None:
    assert digest_of(job(**changes)) != digest_of(job())


def test_what_is_printed_does_not_count() -> None:
    assert digest_of(job(train={"verbose": 2})) == digest_of(job(train={"verbose": 0}))


def test_other_code_is_another_run() -> None:
    assert digest_of(job(), "c0de") != digest_of(job(), "c0de2")


def test_the_digest_is_the_same_on_every_machine_and_in_every_release() -> None:
    what = {"name": "digits", "seed": 0, "text": "ä", "rate": 1e-4}

    canonical = b'{"name":"digits","rate":0.0001,"seed":0,"text":"\\u00e4"}'
    assert identity_digest(what) == hashlib.sha256(canonical).hexdigest()


def test_the_default_run_id_is_the_name_and_twelve_digits() -> None:
    assert default_run_id("digits", "0123456789abcdef") == "digits-0123456789ab"


def test_a_difference_is_told_line_by_line() -> None:
    old = identity(job(), "aaaa")
    new = identity(
        job(
            train={"epochs": 20, "early_stopping": None},
            members={"count": 5, "dropout": [0.1, 0.2], "overrides": {3: {"seed": 1}}},
            model={"builder": "jobs.digits:build", "kwargs": {"units": 8}},
        ),
        "bbbb",
    )

    lines = difference(old, new)

    assert "train.epochs: 10 → 20" in lines
    assert "members.dropout: null → [0.1, 0.2]" in lines
    assert 'model.kwargs: {} → {"units": 8}' in lines
    assert 'code: "aaaa" → "bbbb"' in lines
    assert [line.partition(":")[0] for line in lines] == [
        "code",
        "members.dropout",
        "members.overrides",
        "model.kwargs",
        "train.early_stopping",
        "train.epochs",
    ]
    assert difference(old, old) == []


def test_a_key_that_only_one_side_has_is_told_as_not_set() -> None:
    assert difference({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}) == ["a.y: 2 → (not set)"]


FILES = {
    "jobs/__init__.py": "# jobs\n",
    "jobs/digits.py": "import numpy\nfrom . import shared\nfrom .layers import block\ndef build():\n    import late\n",
    "jobs/shared.py": "import lib.tools.deep\n",
    "jobs/layers.py": "from jobs.digits import build\n",
    "jobs/unused.py": "",
    "lib/__init__.py": "",
    "lib/tools/deep.py": "",
    "lib/other.py": "",
    "late.py": "import gone\n",
    "data_only.py": "def load(): ...\n",
    "mine.py": "def build(): ...\n",
}
OWN = ("jobs/__init__.py", "jobs/digits.py", "jobs/layers.py", "jobs/shared.py", "late.py", "lib/__init__.py")


def test_the_code_is_what_the_jobs_modules_import_below_the_root(tmp_path: Path) -> None:
    code = code_digest(job(), write(tmp_path, FILES))

    assert code.files == (*OWN, "lib/tools/deep.py")


def test_the_data_function_and_members_own_models_belong_to_the_code(tmp_path: Path) -> None:
    made = job(data="data_only:load", members={"overrides": {0: {"model": "mine:build"}}})

    files = code_digest(made, write(tmp_path, FILES)).files

    assert {"data_only.py", "mine.py"} <= set(files)


def test_the_digest_follows_content_and_names_but_not_the_folder(tmp_path: Path) -> None:
    first = code_digest(job(), write(tmp_path / "a", FILES))
    same = code_digest(job(), write(tmp_path / "b", FILES))
    changed = code_digest(job(), write(tmp_path / "c", {**FILES, "lib/tools/deep.py": "x = 1\n"}))
    irrelevant = code_digest(job(), write(tmp_path / "d", {**FILES, "jobs/unused.py": "x = 1\n"}))

    assert first == same == irrelevant
    assert changed.files == first.files
    assert changed.digest != first.digest


@pytest.mark.parametrize("folder", [".venv/lib/site-packages", "env"])
def test_installed_packages_below_the_root_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    root = write(tmp_path, {"m.py": "import installed\n", f"{folder}/installed.py": "", "env/pyvenv.cfg": ""})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / folder)])

    assert code_digest(job(model="m:f", data="m:g"), root).files == ("m.py",)


def test_a_source_folder_on_the_path_counts_as_the_jobs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, {"m.py": "import pkg.core\n", "src/pkg/__init__.py": "", "src/pkg/core.py": ""})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "src")])

    assert code_digest(job(model="m:f", data="m:g"), root).files == ("m.py", "src/pkg/__init__.py", "src/pkg/core.py")


def test_this_package_is_no_code_of_the_job(tmp_path: Path) -> None:
    root = write(tmp_path, {"m.py": "import orchestrator.spec\n", "orchestrator/__init__.py": ""})

    assert code_digest(job(model="m:f", data="m:g"), root).files == ("m.py",)


def test_a_module_that_does_not_parse_counts_by_its_bytes(tmp_path: Path) -> None:
    root = write(tmp_path, {"m.py": "import broken\n", "broken.py": "def f(:\n"})

    assert code_digest(job(model="m:f", data="m:g"), root).files == ("broken.py", "m.py")


def test_several_specs_are_compared_key_by_key() -> None:
    specs = [{"a": {"x": 1, "y": 2}, "b": None}, {"a": {"x": 1, "y": 3}, "b": {"c": 1}}, {"a": {"x": 1}, "b": {"c": 2}}]
    assert differing(specs) == [("a.y", ("2", "3", "(not set)")), ("b", ("null", '{"c": 1}', '{"c": 2}'))]
    assert differing(specs[:1]) == differing([]) == []
