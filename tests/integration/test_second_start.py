"""What a second start of the same run does, with real training in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.errors import DamagedStore, IdentityChanged, Interrupted, QuorumMissed
from orchestrator.reporting.progress import SilentProgress
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = '''

def load_from_file():
    from pathlib import Path

    rows = int((Path(__file__).parent / "rows").read_text())
    return digits(rows)


def build_flaky(dropout=0.1, tag=0):
    """Fails where the file `down` is there and the preflight is over."""
    from pathlib import Path

    if tag and (Path(__file__).parent / "down").exists() and getattr(build_flaky, "checked", False):
        raise ConnectionError("the licence server is down")
    build_flaky.checked = bool(tag) or getattr(build_flaky, "checked", False)
    return build_model(dropout)
'''


@pytest.fixture
def repeated(project: TinyProject) -> TinyProject:
    """The tiny project with functions that look at files beside them."""
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text(encoding="utf-8") + SOURCE, encoding="utf-8")
    return project


class StopAfterFirstMember(SilentProgress):
    """Gives the error that ends the run once a member is published."""

    def __init__(self) -> None:
        self._error: Interrupted | None = None

    def member(self, member: int, status: str, message: str | None = None) -> None:
        if status == "trained":
            self._error = Interrupted("SIGTERM: the run ends here")

    def interruption(self) -> Interrupted | None:
        return self._error


class CountEpochs(SilentProgress):
    """Notes whose epochs were trained."""

    def __init__(self) -> None:
        self.members: list[int] = []

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        self.members.append(member)


def claims(storage: Path, members: str, member: int) -> int:
    """How often a member was claimed."""
    return Log.open(open_store(str(storage)), f"{members}/{member}/log").term


def test_an_interrupted_run_keeps_its_published_members_and_ends_with_the_same_weights(repeated: TinyProject) -> None:
    straight = run_in_process(repeated.job(members=5, store="straight"), repeated.folder)
    # Commands are carried out in turn here: the one to save finds nothing in training, and nobody answers it. What is
    # published beside the training is told late: by the time of the stop, up to four members have been trained.
    job, first = repeated.job(members=5, faults={"stop_grace_s": 0}), StopAfterFirstMember()
    with pytest.raises(Interrupted):
        run_in_process(job, repeated.folder, progress=first, interruption=first.interruption)
    second = CountEpochs()
    result = run_in_process(job, repeated.folder, progress=second)
    assert 0 not in second.members
    assert second.members.count(4) == 2
    weights = [[member.weights_sha256 for member in run.members] for run in (straight, result)]
    assert weights[0] == weights[1]
    assert result.validation == straight.validation
    assert result.attempt == 2
    storage = repeated.folder / "runs"
    assert [claims(storage, result.artifacts["members"], member) for member in range(5)] == [1] * 5


def test_a_run_that_missed_its_quorum_tries_its_failed_members_again(repeated: TinyProject) -> None:
    overrides = {1: {"kwargs": {"tag": 1}}}
    job = repeated.job(model=f"{repeated.name}:build_flaky", members={"count": 2, "overrides": overrides})
    (repeated.folder / "down").touch()
    with pytest.raises(QuorumMissed, match="licence server"):
        run_in_process(job, repeated.folder)
    (repeated.folder / "down").unlink()
    again = CountEpochs()
    result = run_in_process(job, repeated.folder, progress=again)
    assert (result.status, again.members) == ("succeeded", [1, 1])
    assert [member.attempts for member in result.members] == [1, 2]


def test_other_data_under_the_same_run_id_are_refused(repeated: TinyProject) -> None:
    rows = repeated.folder / "rows"
    rows.write_text("160")
    job, first = repeated.job(data=f"{repeated.name}:load_from_file"), StopAfterFirstMember()
    with pytest.raises(Interrupted):
        run_in_process(job, repeated.folder, progress=first, interruption=first.interruption)
    rows.write_text("161")
    with pytest.raises(IdentityChanged, match="data has changed") as caught:
        run_in_process(job, repeated.folder)
    assert caught.value.exit_code == 2


def test_a_run_whose_spec_is_gone_is_continued_by_nobody(project: TinyProject) -> None:
    """Another job could go on from its checkpoints otherwise. No worker is asked for."""
    job = project.job()
    planned = api.plan(job, root=str(project.folder), run_id="tuesday")
    Log.open(open_store(job.storage.url), planned.request.layout.coord_log).claim(run_id="tuesday")
    with pytest.raises(DamagedStore, match="the run's spec is gone") as caught:
        api.run(job, root=str(project.folder), run_id="tuesday")
    assert caught.value.exit_code == 2
    assert "--fresh" in str(caught.value.hint)
