"""The table of faults is complete, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = [line for line in (TESTS / "fault" / "FAULTS.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]


def test_every_fault_from_1_to_44_has_a_row_and_every_row_a_test() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 45))
    assert all("::" in row for row in ROWS)


def test_every_test_that_the_table_names_exists() -> None:
    named = {reference for row in ROWS for reference in re.findall(r"`(\S+\.py)::(\w+)`", row)}
    missing = [
        f"{file}::{name}" for file, name in sorted(named) if f"def test_{name}" not in (TESTS / file).read_text()
    ]
    assert not missing
    assert len(named) > 44


def test_every_file_that_the_readme_names_as_proof_exists() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    table = readme[readme.index("## Nothing is lost") : readme.index("## Clusters")]
    named = set(re.findall(r"`((?:unit|contract|integration|fault)/[\w/.*]+)`", table))
    assert len(named) > 8
    assert all(any(TESTS.glob(name.rstrip("/"))) for name in named), named
