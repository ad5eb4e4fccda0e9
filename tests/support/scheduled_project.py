"""A project whose second member waits for a file in the middle of its training, for tries that are to be killed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.ports import Store
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.records import Record
from tests.support.waiting import wait_until

MODULE = """
import numpy as np


def load_data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(160, 4)).astype("float32")
    y = x[:, :2].argmax(axis=1)
    return {"train": (x[:100], y[:100]), "validation": (x[100:130], y[100:130]), "test": (x[130:], y[130:])}


def build_model(dropout, held):
    import keras

    layers = [keras.Input((4,)), keras.layers.Dropout(dropout), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers, name="held" if held else "free")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""

CALLBACKS = '''
import threading
import time
from pathlib import Path

import keras


class Hold(keras.callbacks.Callback):
    """A model of the name `held` goes into its third epoch only when the file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = Path(file)

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        give_up_at = time.monotonic() + 600
        while self.model.name == "held" and epoch == 2 and not self.file.exists() and time.monotonic() < give_up_at:
            threading.Event().wait(0.05)
'''


@dataclass(frozen=True)
class ScheduledProject:
    """`folder` has `jobs/digits.yaml`, as the examples of `jobs/schedulers` want it; runs are kept in `storage`."""

    folder: Path
    storage: Path

    @classmethod
    def write(cls, folder: Path) -> ScheduledProject:
        project = cls(folder / "project", folder / "runs")
        (project.folder / "jobs").mkdir(parents=True)
        (project.folder / "scheduled.py").write_text(MODULE, encoding="utf-8")
        (project.folder / "holding.py").write_text(CALLBACKS, encoding="utf-8")
        job = {
            "name": "digits",
            "model": "scheduled:build_model",
            "data": "scheduled:load_data",
            "members": {"count": 2, "vary": {"held": [False, True]}},
            "train": {
                "epochs": 5,
                "batch_size": 20,
                "engine": "solo",
                "early_stopping": None,
                "callbacks": [{"class_name": "holding:Hold", "config": {"file": str(project.gate)}}],
            },
            "resources": {"concurrency": 1},
            "faults": {"checkpoint_every_epochs": 1, "takeover_s": 3.0},
            "storage": {"url": str(project.storage)},
        }
        (project.folder / "jobs" / "digits.yaml").write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
        return project

    @property
    def gate(self) -> Path:
        return self.folder.parent / "go"

    def let_go(self) -> None:
        self.gate.touch()

    @property
    def _store(self) -> Store:
        return LocalStore(self.storage)

    def _layout(self, run_id: str) -> RunLayout | None:
        for key in self._store.list("digits"):
            if key.endswith("/spec.json") and run_id in json.loads(self._store.get(key))["run_id"]:
                return RunLayout("digits", key.split("/")[1])
        return None

    def records(self, run_id: str, member: int | None = None) -> list[Record]:
        """Of a member's log, or of the coordinator's; `run_id` is a part of the run's id. Empty before there is one."""
        layout = self._layout(run_id)
        if layout is None:
            return []
        return Log.open(self._store, layout.coord_log if member is None else layout.member_log(member)).records()

    def kinds(self, run_id: str, member: int | None = None) -> list[str]:
        """Of those records."""
        return [record.kind for record in self.records(run_id, member)]

    def result(self, run_id: str) -> Any:
        layout = self._layout(run_id)
        assert layout is not None, f"no run {run_id}"
        return json.loads(self._store.get(layout.result))

    def process(self, command: str) -> int | None:
        """Process id of the `orchestrator COMMAND` that works on this storage or in this folder, if there is one."""
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
                ours = any(str(self.storage) in word for word in words) or (entry / "cwd").readlink() == self.folder
                if ours and command in words and any("orchestrator" in word for word in words[:3]):
                    return int(entry.name)
            except OSError:  # it ended while we looked, or is somebody else's
                continue
        return None

    def kill(self, command: str) -> int:
        """SIGKILL to that process; its id."""
        pid = wait_until(lambda: self.process(command), f"the process of `orchestrator {command}`")
        os.kill(pid, signal.SIGKILL)
        return pid
