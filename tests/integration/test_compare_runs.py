"""Two real runs set side by side through the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli_job import orchestrator, write_tiny_job
from tests.support.report_pages import parse

pytestmark = pytest.mark.slow


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "orchestrator", "compare", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_two_real_runs_are_compared_as_a_table_as_json_and_as_a_page(tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, {"url": "runs"}, report={"html": False})
    longer = ("train.epochs=40", "train.optimizer={class_name: Adam, config: {learning_rate: 0.05}}")
    for run_id, overrides in (("short", ()), ("long", longer)):
        ended = orchestrator(job, "run", *overrides, "--run-id", run_id)
        assert ended.returncode == 0, ended.stderr

    asked = compare(tmp_path, "short", "long", "--json", "--out", "page.html")
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    assert [each["run_id"] for each in told["runs"]] == ["short", "long"]
    assert {row["key"]: row["values"] for row in told["spec"]} == {
        "train.epochs": ["2", "40"],
        "train.optimizer": ["null", '{"class_name": "Adam", "config": {"learning_rate": 0.05}}'],
    }
    assert told["origins"] == []
    [pair] = told["pairs"]
    assert pair["unpaired"] == {}
    short, long = told["runs"]
    for gain in pair["gains"]:
        difference = long[gain["split"]][gain["metric"]] - short[gain["split"]][gain["metric"]]
        assert gain["gain"] == pytest.approx(difference if gain["metric"] == "accuracy" else -difference, abs=1e-9)
        assert gain["low"] <= gain["gain"] <= gain["high"]
    assert {(gain["split"], gain["metric"]) for gain in pair["gains"]} >= {("test", "accuracy"), ("validation", "nll")}
    assert pair["ahead"] == "B"
    assert any(note.startswith("B: 1 other run with") for note in told["notes"])

    page = parse((tmp_path / "page.html").read_bytes())
    assert page.section_ids() == ["runs", "figures", "gains", "differences"]
    assert page.all("h2")[0].text == f"Which run is better? {pair['title']}"

    shown = compare(tmp_path, "short", "long")
    assert shown.returncode == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "train.epochs 2 40" in lines
    assert any(re.fullmatch(r"B test accuracy \+\S+ points \S+ to \S+ points", line) for line in lines)
    assert pair["title"] in lines

    alone = compare(tmp_path, "short", "--json")
    assert alone.returncode == 2
    assert "1 runs cannot be compared" in json.loads(alone.stdout)["what"]
    missing = compare(tmp_path, "short", "nowhere")
    assert missing.returncode == 2
    assert "there is no such run" in missing.stderr
    unwritable = compare(tmp_path, "short", "long", "--out", "no/such/folder/page.html")
    assert unwritable.returncode == 2
    assert "cannot write no/such/folder/page.html" in unwritable.stderr
