"""`orchestrator status --watch`: exit codes, what stands on which stream, and the table on a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_examples import BEGAN, LAYOUT, RUN_ID, claim_member, create_run, finish
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app
from orchestrator.cli.watch import draw
from orchestrator.reporting.run_status import RunReader, RunStatus
from orchestrator.storage.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def status(store: LocalStore, *options: str) -> Result:
    return CliRunner().invoke(app, ["status", RUN_ID, "--storage", store.url, *options])


@pytest.mark.parametrize(("ended", "code"), [("succeeded", 0), ("gate_failed", 3)])
def test_watching_ends_with_the_exit_code_of_the_run(store: LocalStore, ended: str, code: int) -> None:
    finish(store, create_run(store), status=ended, exit_code=code)
    found = status(store, "--watch")
    assert found.exit_code == code, found.output
    assert found.stdout.startswith(f"run {RUN_ID}: {ended} (")
    assert found.stderr == ""


def test_a_run_that_was_stopped_ends_the_watching_with_its_code_and_message(store: LocalStore) -> None:
    create_run(store).append("stopped", exit_code=143, message="SIGTERM: the run ends here", at=BEGAN)
    found = status(store, "--watch")
    assert found.exit_code == 143
    assert "SIGTERM: the run ends here" in found.stdout


def test_with_json_each_news_is_a_line_of_json(store: LocalStore) -> None:
    claim_member(store, 0, worker="w0", at=BEGAN)
    finish(store, create_run(store))
    found = status(store, "--watch", "--json")
    [line] = found.stdout.splitlines()
    told = json.loads(line)
    assert (told["status"], told["members"][0]["worker"]) == ("partial", "w0")


def test_a_run_that_does_not_come_is_given_up_with_124_and_what_is_waited_for_is_said_on_stderr(
    store: LocalStore,
) -> None:
    found = status(store, "--watch", "--every", "0.5", "--timeout", "0")
    assert (found.exit_code, found.stdout) == (124, "")
    assert "there is no such run yet" in found.stderr
    assert "--timeout is over" in found.stderr


def test_whoever_waits_for_a_run_that_is_not_there_is_told_which_are(store: LocalStore) -> None:
    create_run(store)
    found = CliRunner().invoke(app, ["status", "tpyo", "--watch", "--timeout", "0", "--storage", store.url])
    assert f"waiting for it (there are: {LAYOUT.run_key})" in " ".join(found.stderr.split())


def test_a_time_limit_without_watching_is_refused(store: LocalStore) -> None:
    create_run(store)
    found = status(store, "--timeout", "5")
    assert found.exit_code == 2
    assert "--watch" in found.stderr


def test_a_run_at_a_job_server_is_not_watched(store: LocalStore) -> None:
    found = status(store, "--watch", "--address", "http://127.0.0.1:1")
    assert found.exit_code == 2
    assert "watched from its storage" in found.stderr


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_a_terminal_gets_the_table_notes_above_it_and_its_cursor_back(
    store: LocalStore, no_color: str, colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()

    def look(note: Callable[[str], None]) -> Iterator[RunStatus]:
        log, reader = create_run(store), RunReader(store, LAYOUT)
        yield reader.look(BEGAN)
        note("storage is out of [reach]")
        finish(store, log, status="succeeded")
        yield reader.look(BEGAN)

    last = draw(look, stream, {"NO_COLOR": no_color})
    assert last is not None
    assert last.status == "succeeded"
    text = stream.getvalue()
    assert "storage is out of [reach]\n" in text
    assert f"run {RUN_ID}: unfinished" in text
    assert f"run {RUN_ID}: succeeded" in text
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"
    assert ("\x1b[31m" in text) is colored
