"""Long chaos on the protocol (opt-in): the scenes of `test_protocol_chaos` with a new seed each time, on both stores.

`ORCHESTRATOR_SOAK_S` says for how long (default 600 s), `ORCHESTRATOR_SEED` where the seeds begin; a failure names its
own. The budget of what was survived is printed: run with `-s`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.conftest import S3Bucket
from tests.support.chaos_actor import Site
from tests.support.chaos_scenes import chaos_on_a_member, chaos_on_a_run, s3_site

pytestmark = pytest.mark.soak

SCENES = {"member": chaos_on_a_member, "run": chaos_on_a_run}


def test_no_seed_breaks_the_protocol_on_either_store(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    first = int(os.environ.get("ORCHESTRATOR_SEED") or secrets.randbelow(2**31))
    ends_at = time.monotonic() + float(os.environ.get("ORCHESTRATOR_SOAK_S") or 600)
    sites = {"local": Site(str(tmp_path / "runs")), "s3": s3_site(s3_bucket.url, s3_bucket.endpoint_url)}
    budget: Counter[str] = Counter()
    for seed in count(first):
        for store, site in sites.items():
            for name, scene in SCENES.items():
                folder = tmp_path / f"{seed}-{store}-{name}"
                folder.mkdir()
                seen = scene(replace(site, url=f"{site.url}/{seed}-{name}"), folder, seed)
                assert not seen.violations, seen
                assert not seen.stale, seen
                budget += seen.budget + Counter(records=seen.records, scenes=1)
        if time.monotonic() >= ends_at:
            break
    print(f"survived, from seed {first}: {dict(budget)}; violations: 0")
    assert min(budget[fault] for fault in ("kills", "freezes", "superseded_thaws", "faults")) > 0, budget
