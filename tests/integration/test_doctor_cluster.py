"""`doctor` and tokens on a real cluster: a head and two nodes, token authentication on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cluster.session import connect
from orchestrator.errors import AccessDenied
from tests.support.cli_job import orchestrator, write_tiny_job
from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]


def test_a_check_that_is_submitted_looks_at_every_node_and_comes_back(cluster_head: RayHead, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    job = write_tiny_job(project, {"url": str(tmp_path / "store")})
    (project / "helper.py").touch()
    (project / ".gitignore").write_text("helper.py\n", encoding="utf-8")
    tiny = project / "tiny.py"
    tiny.write_text(f"{tiny.read_text(encoding='utf-8')}\nimport helper\n", encoding="utf-8")
    ended = orchestrator(job, "doctor", "--address", cluster_head.address, "--json", environ=cluster_head.environ)
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["exit_code"]) == (2, 2), ended.stdout + ended.stderr
    found = {finding["check"]: finding for finding in answer["findings"] if finding["level"] == "ok"}
    assert {*found} >= {"authentication", "versions", "gpus", "clock", "storage"}
    assert found["authentication"]["where"] == cluster_head.address
    nodes = len(cluster_head.alive())
    assert nodes >= 3
    for check in ("versions", "storage"):
        assert found[check]["where"] == f"all {nodes + 1} machines"  # the driver's own view besides
    problems = [finding for finding in answer["findings"] if finding["level"] == "problem"]
    assert {finding["check"] for finding in problems} == {"modules"}
    assert [finding["what"] for finding in problems] == [
        "the job's code did not come as far as there: no helper"
    ] * nodes
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, "refuses the token in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token"}, "wants a token, and none is found here"),
        ({"RAY_AUTH_TOKEN": "right"}, "Ray does not show the one in RAY_AUTH_TOKEN: RAY_AUTH_MODE is not set"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "right"}, "RAY_AUTH_MODE=disabled forbids"),
    ],
    ids=["wrong", "missing", "unshown", "forbidden"],
)
@pytest.mark.parametrize("kind", ["head", "client"])
def test_a_driver_is_refused_with_the_reason_before_ray_is_asked(
    cluster_head: RayHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    says: str,
    kind: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, cluster_head.token if value == "right" else value)
    address = cluster_head.gcs_address if kind == "head" else f"ray://{cluster_head.client_address}"
    with pytest.raises(AccessDenied) as refused:
        connect(address, None)
    assert says in refused.value.what
    assert cluster_head.token not in str(refused.value)
