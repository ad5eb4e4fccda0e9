"""The report of a real run: trained by Keras on Ray, drawn by its coordinator, drawn again by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_job import orchestrator, write_tiny_job
from tests.support.report_pages import parse

pytestmark = pytest.mark.slow

SECTIONS = ["figures", "curves", "size", "members", "weights", "calibration", "confusion", "examples"]
SECTIONS += ["diversity", "selective", "timeline", "provenance"]


def test_a_real_runs_report_tells_everything_and_the_command_draws_the_same_again(tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, {"url": "runs"})
    ran = orchestrator(job, "run", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "the report could not be written" not in ran.stderr
    result = json.loads(ran.stdout)
    kept = tmp_path / "runs" / result["artifacts"]["report"]
    first = kept.read_bytes()

    page = parse(first)
    assert [name for name in SECTIONS if name not in page.section_ids()] == []
    assert (page.mistakes, page.unclosed, page.handlers()) == ([], [], [])
    [answer] = page.all("strong")
    assert answer.text in {"Yes, clearly.", "Probably yes.", "It cannot be told.", "No."}
    provenance = page.section("provenance").text
    for told in (result["spec_digest"], result["data_fingerprint"], result["versions"]["keras"]):
        assert told in provenance
    members = page.section("members").text
    assert all(str(member["seed"]) in members for member in result["members"])
    charts = [svg.attributes["aria-label"] for svg in page.all("svg") if svg.attributes["class"] == "chart"]
    assert any(label.startswith("timeline of 2 attempts") for label in charts)
    assert any(label.startswith("loss over epochs of 2 members") for label in charts)

    kept.unlink()
    run = Path(result["run_id"])  # the helper takes a path and passes its name on
    again = orchestrator(tmp_path / run, "report", "--out", "copy.html", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {"report": result["artifacts"]["report"], "storage": "runs", "out": "copy.html"}
    assert (tmp_path / "copy.html").read_bytes() == kept.read_bytes() == first
