"""`validate --cluster`: what it says, as text and as JSON, and how it ends. Ray's own validator takes part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app
from orchestrator.cluster.launcher.check import check_cluster
from orchestrator.errors import InvalidCluster
from orchestrator.spec import load_job

pytestmark = pytest.mark.slow  # it imports Ray

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"
USER_CODE = "def load_data():\n    raise SystemExit\n\n\ndef build_model():\n    raise SystemExit\n"
JOB = """\
name: light
model: user_code:build_model
data: user_code:load_data
storage: {url: s3://bucket/runs}
resources: {num_gpus: 1}
members: 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory and home: a job, its module, the repository's launcher file, and what it copies to nodes."""
    (tmp_path / "user_code.py").write_text(USER_CODE, encoding="utf-8")
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    (tmp_path / "cluster.yaml").write_text(CLUSTER.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "dist").mkdir()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["validate", *arguments])


def change(folder: Path, **keys: object) -> None:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")) | keys), encoding="utf-8")


def test_the_file_alone_is_valid_and_what_is_left_to_do_is_on_stderr(folder: Path) -> None:
    ended = validate("--cluster", "cluster.yaml")
    assert (ended.exit_code, ended.stdout) == (0, "")
    warning, hint, last = ended.stderr.splitlines()
    assert warning.startswith("warning: cluster.yaml: docker.run_options.")
    assert "MY-BUCKET is a placeholder" in warning
    assert hint.startswith("  → ")
    assert last == "cluster.yaml: valid; errors: 0, warnings: 1; no cloud was asked"


def test_with_a_job_both_are_checked_and_the_json_tells_of_both(folder: Path) -> None:
    ended = validate("job.yaml", "resources.num_gpus=2", "--cluster", "cluster.yaml", "--json")
    assert ended.exit_code == 2
    told = json.loads(ended.stdout)
    assert (told["valid"], told["name"], told["members"]) == (False, "light", 1)
    (error,) = told["cluster"]["errors"]
    assert error["where"] == "available_node_types"
    assert "2 GPU" in error["what"]
    assert error["hint"]
    assert [each["where"].split(".")[0] for each in told["cluster"]["warnings"]] == ["docker"]
    assert f"error: cluster.yaml: available_node_types: {error['what']}" in ended.stderr


def test_a_job_that_fits_is_valid(folder: Path) -> None:
    ended = validate("job.yaml", "--cluster", "cluster.yaml", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["valid"] is True


def test_labels_and_unsaid_machines_are_looked_for_in_the_file(folder: Path) -> None:
    job = load_job("job.yaml", ["resources.labels={market: on-demand}", "resources.num_gpus=1"])
    assert [each.level for each in check_cluster("cluster.yaml", job)] == ["warning"]
    types = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))["available_node_types"]
    types["gpu_on_demand"]["resources"] = {}
    change(folder, available_node_types=types)
    _, unsaid = check_cluster("cluster.yaml", job)
    assert (unsaid.level, unsaid.where) == ("warning", "available_node_types")
    assert "whether gpu_on_demand has that" in unsaid.what
    del types["gpu_on_demand"]
    change(folder, available_node_types=types)
    _, error = check_cluster("cluster.yaml", job)
    assert (error.level, error.where) == ("error", "available_node_types")
    assert "market=on-demand" in error.what


def test_an_invalid_job_is_told_before_any_cluster(folder: Path) -> None:
    ended = validate("job.yaml", "train.epoch=1", "--cluster", "cluster.yaml", "--json")
    assert ended.exit_code == 2
    assert json.loads(ended.stdout)["error"] == "InvalidJob"


def test_nothing_to_check_is_an_error() -> None:
    ended = validate()
    assert ended.exit_code == 2
    assert "--cluster cluster.yaml" in ended.stderr


@pytest.mark.parametrize(
    ("keys", "where", "words"),
    [
        ({"idle_timeout_minute": 5}, "the file", "idle_timeout_minute"),
        ({"max_workers": "eight"}, "max_workers", "'eight' is not of type 'integer'"),
        ({"provider": {"type": "no-such-cloud"}}, "the file", "no-such-cloud"),
        ({"head_setup_commands": "pip install x"}, "head_setup_commands", "is not of type 'array'"),
        ({"docker": {"run_options": [1]}}, "docker.run_options.0", "1 is not of type 'string'"),
        ({"file_mounts": {"/x": None}}, "file_mounts./x", "None is not of type 'string'"),
        ({"worker_start_ray_commands": []}, "worker_start_ray_commands", "[]"),
        (
            {"provider": {"type": "aws", "security_group": {"IpPermissions": [{"IpRanges": ["0.0.0.0/0"]}]}}},
            "provider.security_group.IpPermissions.0.IpRanges.0",
            "is not of type 'object'",
        ),
        ({"head_node_type": "heat"}, "the file", "head_node_type"),
        ({"available_node_types": {"head": 1}}, "", ""),
        ({"provider": None}, "", ""),
    ],
)
def test_what_ray_refuses_is_an_error_with_its_place(
    folder: Path, keys: dict[str, Any], where: str, words: str
) -> None:
    change(folder, **keys)
    refusal, *_ = check_cluster("cluster.yaml")
    assert refusal.level == "error"
    assert refusal.what.startswith("Ray refuses it: ")
    assert where in refusal.where
    assert words in refusal.what


def test_what_ray_would_stumble_over_later_is_an_error_too(folder: Path) -> None:
    path = folder / "cluster.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    del given["head_start_ray_commands"], given["setup_commands"], given["cluster_synced_files"]
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    refusal, *_ = check_cluster("cluster.yaml")
    assert refusal.level == "error"
    assert refusal.where == "head_start_ray_commands, cluster_synced_files, setup_commands"
    assert "has no default" in refusal.what


def test_what_ray_up_needs_on_this_machine_is_named(folder: Path) -> None:
    provider = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))["provider"] | {"module": "no_such.Provider"}
    change(folder, provider=provider)
    (folder / "dist").rmdir()
    (folder / ".ray" / "auth_token").unlink()
    told = [str(each) for each in check_cluster("cluster.yaml")]
    assert any("/home/ray/cluster/dist: ./dist is not there" in each for each in told)
    assert any("no auth_token in ~/.ray" in each and "ray get-auth-token" in each for each in told)
    assert any(each.startswith("provider.module: ") and "no_such.Provider" in each for each in told)


def test_a_secret_is_found_even_where_ray_refuses_the_file_and_is_not_repeated(folder: Path) -> None:
    key = "AKIA" + "ABCDEFGHIJKLMNOP"
    change(folder, max_workers=key)
    ended = validate("--cluster", "cluster.yaml", "--json")
    assert ended.exit_code == 2
    assert "this looks like an AWS access key id" in ended.stderr
    assert key not in ended.stderr + ended.stdout
    change(folder, max_workers=1, setup_commands="export SERVICE_TOKEN=hush-hush")
    ended = validate("--cluster", "cluster.yaml", "--json")
    assert "setup_commands: Ray refuses it: not repeated here" in ended.stderr
    assert "the rule is 'type'" in ended.stderr
    assert "hush" not in ended.stderr + ended.stdout


def test_a_file_that_is_not_there_comes_with_the_nearest_and_a_folder_is_none(folder: Path) -> None:
    with pytest.raises(InvalidCluster) as missing:
        check_cluster("clustre.yaml")
    assert missing.value.hint == "did you mean cluster.yaml?"
    with pytest.raises(InvalidCluster, match="is a folder"):
        check_cluster(str(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1", "is no YAML"), ("- a", "is no mapping"), ("\x00", "is no YAML"), (None, "there is no such file")],
)
def test_what_is_no_launcher_file_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidCluster, match=words):
        check_cluster(str(path))
