"""P5: how long training waits for storage when every request to it takes 150 ms more.

A worker's program, in a process of its own, trains a pack against a real S3 server behind the project's HTTP proxy and
publishes a checkpoint after every epoch, as often as a job can ask for. Beside it a thread looks, 500 times a second,
at what the training thread is doing: the share of looks at which it stood in the storage code or in the saver is the
share of the epochs that it was blocked. The same run without the delay is timed beside it; on a busy machine that
difference is mostly noise, so it is shown and not judged.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType

from tests.bench.harness import Bar, Bench, Failed, Figure, Outcome, problem_of, ratios
from tests.bench.tasks import Task, job_of, make_task

DELAY_S = 0.15
LOOK_EVERY_S = 0.002


def measure(bench: Bench) -> Iterator[Figure]:
    """training blocked on storage, with 150 ms added to every request"""
    from tests.support.fault_proxy import FaultProxy
    from tests.support.fault_rules import Delay, Rule
    from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, client, start_s3_server

    credentials = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SESSION_TOKEN": "",
        "AWS_PROFILE": "",
        "AWS_ENDPOINT_URL": "",
        "AWS_ENDPOINT_URL_S3": "",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    server = start_s3_server(bench.scratch())
    client(server.endpoint_url).mkdir("bench")
    late = Rule(Delay(DELAY_S))
    data, epochs = ("pictures", 3) if bench.quick else ("fashion_mnist", 8)
    try:
        with FaultProxy(server.endpoint_url) as proxy:
            for engine, num_members in (("fused", 2),) if bench.quick else (("fused", 4), ("solo", 2)):
                task = make_task("mlp", data, num_members, epochs=epochs, patience=None)
                path = str(task.write(bench.scratch() / "task.json"))

                def run(delayed: bool, engine: str = engine, path: str = path) -> Outcome:
                    proxy.set_rules(*([late] if delayed else []))
                    before = proxy.fired(late)
                    arguments = (engine, proxy.endpoint_url, path)
                    module = "tests.bench.rows.blocked_on_storage"
                    outcome = bench.process(module, *arguments, deadline_s=600, environment=credentials)
                    struck = proxy.fired(late) - before
                    if delayed and not struck:
                        raise Failed("no request was delayed: this proves nothing")
                    return Outcome(outcome.seconds, {**outcome.facts, "delayed_requests": struck})

                found = bench.run(
                    {"prompt": lambda run=run: run(False), "delayed": lambda run=run: run(True)}, rounds=2
                )
                prompt, delayed = found["prompt"], found["delayed"]
                what = f"{num_members} members, {engine}, a checkpoint each epoch, 150 ms per request"
                yield Figure(
                    "P5",
                    f"{what}: share of the epochs that training was blocked",
                    values=tuple(100 * float(outcome.facts["blocked"]) for outcome in delayed.outcomes),
                    unit="%",
                    bar=Bar(2, at_most=True),
                    problem=problem_of(delayed),
                    facts={"delayed": delayed.facts()},
                )
                yield Figure(
                    "P5",
                    f"{what}: time of an epoch as a multiple",
                    "the same without the delay",
                    ratios(delayed, prompt, lambda outcome: statistics.median(outcome.facts["epoch_s"])),
                    problem=problem_of(prompt, delayed),
                    facts={"prompt": prompt.facts(), "delayed": delayed.facts()},
                )
    finally:
        server.stop()


class Lookout:
    """Looks at what a thread does, again and again, until `end`.

    Attributes:
        in_epochs: set it while the thread trains, clear it between packs.
    """

    def __init__(self, thread_id: int) -> None:
        self._thread_id = thread_id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._looks: Counter[tuple[bool, bool]] = Counter()  # by (in epochs, in storage)
        self.in_epochs = threading.Event()
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def num_looks(self) -> int:
        """How often it looked while the thread trained."""
        return self._looks[True, True] + self._looks[True, False]

    def blocked(self) -> float:
        """At which share of the looks into epochs the thread was in storage."""
        return self._looks[True, True] / max(1, self.num_looks())

    def blocked_between(self) -> float:
        """The same for the looks between packs: claims, models that are built, and the compiler's work."""
        return self._looks[False, True] / max(1, self._looks[False, True] + self._looks[False, False])

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            stands = _is_in_storage(sys._current_frames().get(self._thread_id))
            self._looks[self.in_epochs.is_set(), stands] += 1


def _is_in_storage(frame: FrameType | None) -> bool:
    """Whether the thread stands in the store, in a log, or hands something over to who writes there."""
    while frame is not None:
        path = frame.f_code.co_filename
        if f"orchestrator{os.sep}storage{os.sep}" in path or path.endswith(f"training{os.sep}saver.py"):
            return True
        frame = frame.f_back
    return False


def main(engine: str, endpoint_url: str, task_path: str, report_path: str) -> None:
    """The process that is measured: one worker's program, its training in this thread as in a worker."""
    from orchestrator import api
    from orchestrator.models.user_code import import_function
    from orchestrator.planning import commands as cmd
    from orchestrator.planning import events as ev
    from orchestrator.planning.packs import Pack
    from orchestrator.spec import parse_job
    from orchestrator.training.data import load_dataset
    from orchestrator.training.program import Program
    from orchestrator.training.setup import WorkerSetup

    asked = job_of(Task.read(task_path), "s3://bench/runs", engine=engine)
    asked["storage"]["endpoint_url"] = endpoint_url
    asked["faults"] = {"checkpoint_every_epochs": 1}
    request = api.plan(parse_job(asked), fresh=True).request
    num_cpus = 1 if engine == "solo" else os.cpu_count() or 1
    epochs: list[tuple[int, float]] = []
    saved: list[int] = []

    def emit(event: ev.Event) -> None:
        if isinstance(event, ev.EpochEnded):
            epochs.append((event.member, time.perf_counter()))
        elif isinstance(event, ev.Checkpointed):
            saved.append(event.epoch)
        elif isinstance(event, ev.WorkerFailed | ev.AttemptFailed):
            raise AssertionError(event)

    setup = WorkerSetup("bench", request.job, request.plan, request.layout, 1, None, num_cpus, 0)
    lookout = Lookout(threading.get_ident())
    program = Program(setup, emit, lookout.in_epochs.set)
    program.start()
    dataset = load_dataset(import_function(request.job.data.source), "bench", validation_split=0, seed=0)
    members = tuple(member.index for member in request.plan.members)
    packs = [Pack(0, members, "fused")] if engine == "fused" else [Pack(i, (i,), "solo") for i in members]
    for pack in packs:
        program.handle(cmd.TrainPack("bench", pack, pack.members), dataset)
        lookout.in_epochs.clear()
    lookout.end()
    program.close()
    assert saved, "no checkpoint was published"
    report = {
        "blocked": lookout.blocked(),
        "blocked_between": lookout.blocked_between(),
        "looks": lookout.num_looks(),
        "epoch_s": _epochs(epochs),
        "checkpoints": len(saved),
    }
    Path(report_path).write_text(json.dumps(report))


def _epochs(ends: list[tuple[int, float]]) -> list[float]:
    """Seconds from one epoch of a member to its next; the first of each, which compiles, is left out."""
    found = []
    for member in {member for member, _ in ends}:
        own = [at for index, at in ends if index == member]
        found += [round(after - before, 4) for before, after in pairwise(own)]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
