"""A run id stands for one job and its code; code alone may change where the user says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import ClusterUnavailable, DamagedStore, IdentityChanged, Interrupted, InvalidJob
from orchestrator.spec import parse_job
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from tests.support.tiny_jobs import TinyProject


@pytest.fixture
def project(tmp_path: Path) -> TinyProject:
    return TinyProject(tmp_path, "tiny_changing")


def start(project: TinyProject, **changes: Any) -> None:
    """A start that comes as far as to ask for a cluster, where nobody listens."""
    document = {**project.job().model_dump(mode="json"), "ray": {"address": "127.0.0.1:1"}, **changes.pop("job", {})}
    api.run(parse_job(document), run_id="night", root=str(project.folder), **changes)


def change_code(project: TinyProject) -> None:
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text() + "\n# a remark\n")


def test_changed_code_is_refused_unless_it_is_accepted_and_the_log_says_with_which_code_each_start_came(
    project: TinyProject,
) -> None:
    with pytest.raises(ClusterUnavailable):
        start(project)
    change_code(project)
    with pytest.raises(IdentityChanged, match="code: ") as caught:
        start(project)
    assert caught.value.exit_code == 2
    assert "--accept-code-change" in str(caught.value)
    with pytest.raises(ClusterUnavailable):
        start(project, accept_code_change=True)
    store = open_store(str(project.folder / "runs"))
    (spec,) = (key for key in store.list("") if key.endswith("spec.json"))
    records = Log.open(store, spec.replace("spec.json", "coord/log")).records()
    assert len({record.body["code_digest"] for record in records if record.kind == "claim"}) == 2


def test_a_signal_that_took_ray_with_it_is_what_ended_the_run(project: TinyProject) -> None:
    def asked() -> Interrupted | None:
        ended = any("failed" in path.read_text() for path in (project.folder / "runs").rglob("coord/log/*.json"))
        return Interrupted("SIGTERM: the run ends here") if ended else None

    with pytest.raises(Interrupted) as caught:
        start(project, interruption=asked)
    assert isinstance(caught.value.__cause__, ClusterUnavailable)


def test_nothing_but_code_is_accepted(project: TinyProject) -> None:
    with pytest.raises(ClusterUnavailable):
        start(project)
    change_code(project)
    with pytest.raises(IdentityChanged, match="seed: 0 → 1") as caught:
        start(project, job={"seed": 1}, accept_code_change=True)
    assert "--accept-code-change" not in str(caught.value)


def test_the_plan_says_what_cannot_be_resumed_exactly(project: TinyProject) -> None:
    assert api.plan(project.job(), root=str(project.folder)).to_json()["exact"] is True
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text() + "\nimport keras\n\n\nclass Forgets(keras.callbacks.Callback):\n    pass\n")
    forgetful = project.job(train={"callbacks": [f"{project.name}:Forgets"]})
    planned = api.plan(forgetful, root=str(project.folder)).to_json()
    assert planned["exact"] is False
    assert "Forgets" in planned["inexact_because"][0]


def test_the_id_that_a_default_or_fresh_run_shows_names_that_run(project: TinyProject) -> None:
    default = api.plan(project.job(), root=str(project.folder)).request
    fresh = api.plan(project.job(), fresh=True, root=str(project.folder)).request
    for request in (default, fresh):
        again = api.plan(project.job(), run_id=request.run_id, root=str(project.folder)).request
        assert again.layout == request.layout
    assert api.plan(project.job(), run_id="other", root=str(project.folder)).request.layout != default.layout


def test_an_empty_run_id_is_refused(project: TinyProject) -> None:
    with pytest.raises(InvalidJob, match="empty"):
        api.plan(project.job(), run_id=" ", root=str(project.folder))


def test_a_spec_that_is_damaged_is_damage_and_no_bug(project: TinyProject) -> None:
    with pytest.raises(ClusterUnavailable):
        start(project)
    (spec,) = (project.folder / "runs").rglob("spec.json")
    spec.write_text("{")
    with pytest.raises(DamagedStore, match="spec is damaged"):
        start(project)
