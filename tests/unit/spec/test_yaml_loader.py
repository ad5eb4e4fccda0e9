"""The YAML loader: scalars by the core schema of YAML 1.2, lines, and what it refuses."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
import yaml

from orchestrator.errors import InvalidJob
from orchestrator.spec import load_yaml
from orchestrator.spec.yaml import MAX_BYTES


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5e+3", -500.0),
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("190:20:30", "190:20:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1e", "1e"),
        (".", "."),
        ("jobs.digits:build_model", "jobs.digits:build_model"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    data = load_yaml(f"key: {text}", "job.yaml").data

    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_pyyaml_alone_would_have_misread_the_learning_rate_and_the_switch() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"
    assert yaml.safe_load("on") is True


def test_special_floats_are_read() -> None:
    infinite, negative, nan = load_yaml("[.inf, -.Inf, .NaN]", "job.yaml").data

    assert (infinite, negative) == (math.inf, -math.inf)
    assert math.isnan(nan)


def test_every_path_remembers_its_line() -> None:
    document = load_yaml("a: 1\nb:\n  c:\n    - x\n    - y\n3:\n\n  deep\n", "job.yaml")

    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 4,
        ("b", "c", 1): 5,
        (3,): 6,
    }


def test_a_path_that_is_not_there_is_placed_at_its_nearest_ancestor() -> None:
    document = load_yaml("a:\n  b: 1\n", "job.yaml")

    assert document.where(("a", "missing", "deeper")) == "job.yaml:1"


def test_aliases_are_copied_where_they_stand() -> None:
    data = load_yaml("a: &x [1, 2]\nb: *x\n", "job.yaml").data

    assert data == {"a": [1, 2], "b": [1, 2]}
    assert data["a"] is not data["b"]


@pytest.mark.parametrize(
    ("text", "where", "fragment"),
    [
        ("a: 1\nb: 2\na: 3\n", "job.yaml:3", "'a' stands here twice, first in line 1"),
        ("b:\n  c: 1\n  'c': 2\n", "job.yaml:3", "twice"),
        ("1: 1\n0x1: 2\n", "job.yaml:2", "twice"),
        ("a: [1, 2\n", "job.yaml:2", "not valid YAML"),
        ("a: 1\n\tb: 2\n", "job.yaml:2", "tab"),
        ("a: 1\n---\nb: 2\n", "job.yaml:2", "single document"),
        ("a: *nowhere\n", "job.yaml:1", "nowhere"),
        ("a: &a [*a]\n", "job.yaml:1", "contains itself"),
        ("a: !!int '3'\n", "job.yaml:1", "tag"),
        ("a: !!python/object/apply:os.system [ls]\n", "job.yaml:1", "tag"),
        ("x: 1\n? [a, b]\n: 1\n", "job.yaml:2", "a key must be text or a whole number"),
        ("null: 1\n", "job.yaml:1", "a key must be"),
        ("true: 1\n", "job.yaml:1", "a key must be"),
        ("1.5: 1\n", "job.yaml:1", "a key must be"),
        ("a: 1\nb: " + "9" * 5000, "job.yaml:2", "64 bits"),
        ("a: 0x" + "f" * 5000, "job.yaml:1", "64 bits"),
        ("a: 18446744073709551616", "job.yaml:1", "64 bits"),
        ("[" * 5000, "job.yaml:1", "nested deeper"),
        ("- " * 5000, "job.yaml:1", "nested deeper"),
        ("a: \x00", "job.yaml:1", "U+0000"),
        ('a: "\\ud800"', "job.yaml:1", "surrogate"),
        ('a: "\\UFFFFFFFF"', "job.yaml:1", "not valid YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "job.yaml:1", "not valid YAML"),
        ("#" * (MAX_BYTES + 1), "job.yaml", "larger than 1024 KiB"),
        ("ä" * (MAX_BYTES // 2 + 1), "job.yaml", "larger than 1024 KiB"),
    ],
)
def test_what_hides_mistakes_or_eats_memory_is_refused_with_its_line(text: str, where: str, fragment: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        load_yaml(text, "job.yaml")

    assert caught.value.where == where
    assert fragment in str(caught.value)


def test_a_billion_laughs_ends_quickly() -> None:
    letters = "abcdefghij"
    lines = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"{this}: &{this} [{', '.join(['*' + last] * 9)}]" for last, this in pairwise(letters)]
    start = time.process_time()

    with pytest.raises(InvalidJob, match="more than 100000 values"):
        load_yaml("\n".join(lines), "job.yaml")

    assert time.process_time() - start < 10
