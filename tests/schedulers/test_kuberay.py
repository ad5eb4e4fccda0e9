"""The RayJob's entrypoint on a real head, submitted as KubeRay's submitter does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.cli_job import write_tiny_job
from tests.support.ray_head import ray_head
from tests.support.scheduler_files import BUCKET, kuberay_command, rayjob

pytestmark = pytest.mark.schedulers


def test_the_entrypoint_trains_from_the_images_folder_on_gpu_workers_and_a_retry_finds_its_result(
    tmp_path: Path,
) -> None:
    """The GPU is a logical one. A retry of KubeRay is a new cluster: here it is one more job of this entrypoint."""
    project = tmp_path / "ensembles"
    (project / "jobs").mkdir(parents=True)
    storage = tmp_path / "runs"
    write_tiny_job(project, {"url": "unused"}).rename(project / "jobs" / "digits.yaml")
    runtime_env = yaml.safe_load(rayjob().spec.runtimeEnvYAML.replace("/opt/ensembles", str(project)))
    entrypoint = [part.replace(BUCKET, str(storage)) for part in kuberay_command()]
    ray = Path(sys.executable).with_name("ray")
    results = []
    with ray_head(tmp_path, num_gpus=1) as head:
        for attempt in ("first", "second"):
            submit = [ray, "job", "submit", "--address", head.address, "--submission-id", attempt]
            ended = subprocess.run(
                [*submit, "--runtime-env-json", json.dumps(runtime_env), "--", *entrypoint],
                env=head.environ,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            results.append((ended.stdout, [path.read_bytes() for path in storage.glob("*/*/result.json")]))
    (first, stored), (second, stored_again) = results
    assert "[member 1] epoch 2/2" in first
    assert "is finished: this is its recorded result" in second
    assert "epoch 2/2" not in second
    assert len(stored) == 1
    assert stored == stored_again
