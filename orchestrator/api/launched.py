"""Cluster launcher files, checked before anything is started from them."""

from __future__ import annotations

from orchestrator.cluster.launcher.check import check_cluster
from orchestrator.cluster.launcher.rules import Finding
from orchestrator.spec import Job


def validate_cluster(path: str, job: Job | None = None) -> tuple[Finding, ...]:
    """Check a cluster launcher file (`ray up`) offline: Ray's own validator, then access, rights, costs and versions.

    Args:
        path: the file, such as `cluster.yaml`.
        job: also check that the job's workers fit one of its nodes, and that its storage can be reached from them.

    Returns:
        What there is to mend, errors and warnings; nothing of it was started, and no cloud was asked.

    Raises:
        InvalidCluster: the file cannot be read, or is no YAML mapping.
    """
    return check_cluster(path, job)
