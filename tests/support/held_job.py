"""A job whose members wait at each epoch for a file, and command lines that a test kills, freezes and thaws."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreUnavailable
from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.records import Record
from tests.support.processes import without_ray
from tests.support.waiting import WAIT_S, wait_until

MODULE = """
import numpy as np


def load_data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(160, 4)).astype("float32")
    y = x[:, :2].argmax(axis=1)
    return {"train": (x[:100], y[:100]), "validation": (x[100:130], y[100:130]), "test": (x[130:], y[130:])}


def build_model(dropout):
    import keras

    layers = [
        keras.Input((4,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(2, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""

CALLBACKS = '''
import os
import threading
import time
from pathlib import Path

import keras

FOLDER = Path(__file__).parent


class Hold(keras.callbacks.Callback):
    """Goes into epoch n only when the file `go` says n or more; `pids` tells who trains."""

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_begin(self, logs=None):
        with (FOLDER / "pids").open("a") as file:
            file.write(f"{os.getpid()}\\n")

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:  # in the middle of the epoch
            give_up_at = time.monotonic() + 240
            while int((FOLDER / "go").read_text() or 0) < self.epoch and time.monotonic() < give_up_at:
                threading.Event().wait(0.02)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1


class Pace(Hold):
    """Takes its time over each epoch, so that chaos has something to strike; holds nobody."""

    def on_train_batch_begin(self, batch, logs=None):
        threading.Event().wait(0.05)
'''
"""A module of its own, for the process that loads the data must not wait for Keras to be imported."""


@dataclass
class Driver:
    """A command line that runs; what it says goes to files."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def told(self) -> str:
        return self.output.with_suffix(".err").read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.told() or self.process.poll() is not None, f"{text!r} in {self.output.name}")
        assert text in self.told(), f"ended with {self.process.returncode} before {text!r}:\n{self.told()}"

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ends(self) -> int:
        """The exit code, once it has ended; negative: killed by that signal."""
        return self.process.wait(timeout=WAIT_S)

    def result(self) -> Any:
        return json.loads(self.output.with_suffix(".out").read_text())


@dataclass
class HeldJob:
    """A folder with the job; `go(n)` lets its members finish epoch n."""

    folder: Path
    storage: str
    settings: dict[str, Any] = field(default_factory=dict)
    looks_at: str | None = None
    """Endpoint at which the test itself looks into the store, where the job's own is a proxy with faults."""
    drivers: list[Driver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "held.py").write_text(MODULE, encoding="utf-8")
        (self.folder / "holding.py").write_text(CALLBACKS, encoding="utf-8")
        job = {
            "name": "held",
            "model": "held:build_model",
            "data": "held:load_data",
            "members": 2,
            "resources": {"concurrency": 1},
            "storage": {"url": self.storage},
            **self.settings,
        }
        train = {"epochs": 5, "batch_size": 20, "callbacks": ["holding:Hold"], "early_stopping": None}
        job["train"] = {**train, **self.settings.get("train", {})}
        (self.folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
        self.go(0)

    def go(self, epoch: int) -> None:
        """Let members go on to the middle of epoch `epoch` + 1."""
        unfinished = self.folder / "go.new"
        unfinished.write_text(str(epoch))
        unfinished.replace(self.folder / "go")

    def start(self, *arguments: str, command: str = "run", environ: dict[str, str] | None = None) -> Driver:
        """`orchestrator COMMAND job.yaml --json …` in a session of its own."""
        output = self.folder / f"driver-{len(self.drivers)}"
        base = without_ray()
        with output.with_suffix(".out").open("wb") as out, output.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", command, "job.yaml", "--json", "--run-id", "night", *arguments],
                cwd=self.folder,
                env={**base, **(environ or {})},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        driver = Driver(process, output)
        self.drivers.append(driver)
        return driver

    def tell(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command, such as `stop night --storage …`, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    @cached_property
    def store(self) -> Store:
        """One for all of the test's looks: the clients of a new one take as long as many looks."""
        return open_store(self.storage, endpoint_url=self.looks_at)

    @property
    def layout(self) -> RunLayout:
        key = next(key for key in self.store.list("held") if key.endswith("/spec.json"))
        return RunLayout("held", key.split("/")[1])

    def records(self, member: int | None = None) -> list[Record]:
        """Of a member's log, or of the coordinator's."""
        prefix = self.layout.coord_log if member is None else self.layout.member_log(member)
        return Log.open(self.store, prefix).records()

    def has_checkpoint(self, member: int, epoch: int) -> bool:
        """Whether the member's log names a checkpoint of that epoch, or of a later one; not while nobody can tell."""
        try:
            if not any(key.endswith("/spec.json") for key in self.store.list("held")):
                return False
            found = (record.body["epoch"] for record in self.records(member) if record.kind == "checkpoint")
            return any(int(str(of)) >= epoch for of in found)
        except StoreUnavailable:  # a busy server may miss a call's deadline; whoever waits has one of their own
            return False

    def trainer(self) -> int:
        """Process id of the worker that trains now."""
        return int((self.folder / "pids").read_text().split()[-1])

    def end(self) -> None:
        """End what still runs: only processes of this test."""
        for driver in self.drivers:
            if driver.process.poll() is None:
                driver.signal(signal.SIGCONT)
                driver.signal(signal.SIGKILL)
                driver.process.wait(timeout=30)


@contextmanager
def held_job(folder: Path, url: str, *, looks_at: str | None = None, **settings: Any) -> Iterator[HeldJob]:
    """A held job whose processes end with the block."""
    job = HeldJob(folder, url, settings, looks_at)
    try:
        yield job
    finally:
        job.end()


def weights(result: Any) -> Sequence[str]:
    """Digests of the members' weights in a result."""
    return [member["weights_sha256"] for member in result["members"]]


def living(group: int) -> list[str]:
    """Command lines of the processes of a group that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (ProcessLookupError, FileNotFoundError):  # it ended while we looked
            continue
    return found
