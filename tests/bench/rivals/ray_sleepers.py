"""Bare Ray actors that sleep, as often as there are members: what Ray itself costs. NUM REPORT."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray
from ray.util import ActorPool

from tests.bench.rivals.common import NUM_WORKERS

SLEEP_S = 0.05


@ray.remote(num_cpus=1)
class Sleeper:
    def train(self, member: int) -> int:
        time.sleep(SLEEP_S)
        return member


def main(num_members: str, report_path: str) -> None:
    ray.init(address="local", num_cpus=NUM_WORKERS, include_dashboard=False, log_to_driver=False)
    actors = [Sleeper.remote() for _ in range(NUM_WORKERS)]
    ray.get([actor.__ray_ready__.remote() for actor in actors])
    pool = ActorPool(actors)
    began = time.perf_counter()
    slept = list(pool.map_unordered(lambda actor, member: actor.train.remote(member), range(int(num_members))))
    seconds = time.perf_counter() - began
    assert len(slept) == int(num_members)
    Path(report_path).write_text(json.dumps({"span_s": round(seconds, 3)}))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
