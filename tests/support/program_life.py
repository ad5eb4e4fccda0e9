"""A worker's program in this process, which a test can interrupt at any batch or epoch."""

from __future__ import annotations

import importlib
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import api
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.recovery import MemberMemory, read_member
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.training.program import Program
from orchestrator.training.setup import WorkerSetup
from tests.support.in_process import load
from tests.support.packs import train_alone
from tests.support.tiny_jobs import TinyProject

DEADLINE_S = 180.0
SOURCE = """

import keras

hook = None  # (epoch, batch)
epoch_hook = None  # (epoch)


class EpochHooked(keras.callbacks.Callback):
    "Calls `epoch_hook`, if there is one, with the epoch (1-based) that begins."

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        if epoch_hook is not None:
            epoch_hook(self.epoch)


class Hooked(EpochHooked):
    "Calls `hook`, too, with the epoch and the batch that begin; looking at batches, it rules packs out."

    def on_train_batch_begin(self, batch, logs=None):
        if hook is not None:
            hook(self.epoch, batch)


def load_two():
    return {
        name: (x, {"digit": y, "ink": x.mean(axis=1)}) for name, (x, y) in load_data().items()
    }


def build_two(dropout=0.2):
    entry = keras.Input((64,))
    hidden = keras.layers.Dropout(dropout)(keras.layers.Dense(16, "relu")(entry))
    outputs = [keras.layers.Dense(10, "softmax", name="digit")(hidden), keras.layers.Dense(1, name="ink")(hidden)]
    model = keras.Model(entry, outputs)
    model.compile("adam", {"digit": "sparse_categorical_crossentropy", "ink": "mse"}, metrics={"digit": ["accuracy"]})
    return model
"""


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it."""


Hook = Callable[["Life", int, int], None]
EpochHook = Callable[["Life", int], None]


class Life:
    """The members of a job, trained by one worker after another.

    Args:
        folder: for all files.
        epochs: of training.
        hooked: the class of the callback that calls the hooks.
        outputs: of the models: 1, or 2 by name.
        parts: of the job, instead of one member.
    """

    def __init__(self, folder: Path, epochs: int, *, hooked: str = "Hooked", outputs: int = 1, **parts: Any) -> None:
        project = TinyProject(folder, f"tiny_{secrets.token_hex(4)}", SOURCE)
        self.module_name = project.name
        train = {
            "epochs": epochs,
            "early_stopping": {"patience": 2},
            "callbacks": [
                {"class_name": "CSVLogger", "config": {"filename": "metrics.csv"}},
                f"{project.name}:{hooked}",
            ],
            **parts.pop("train", {}),
        }
        if outputs == 2:
            parts |= {"model": f"{project.name}:build_two", "data": f"{project.name}:load_two"}
        job = project.job(**{"members": 1, "faults": {"checkpoint_every_epochs": 1}, "train": train, **parts})
        planned = api.plan(job, root=str(folder))
        self.layout = planned.request.layout
        self.store = open_store(job.storage.url)
        self.dataset = load(planned.request.job)
        self.setup = WorkerSetup(
            worker="w",
            job=planned.request.job,
            plan=planned.request.plan,
            layout=self.layout,
            coord_term=1,
            code_root=str(folder),
            num_cpus=1,
            num_gpus=0,
        )
        self.news = threading.Condition()
        self.events: list[ev.Event] = []

    def _take(self, event: ev.Event) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()

    def work(
        self, command: cmd.WorkerCommand, hook: Hook | None = None, epoch_hook: EpochHook | None = None
    ) -> Sequence[ev.Event]:
        """What a new worker tells while it carries out one command; the hooks are called by its members' callbacks."""
        self.events = []
        self.program = Program(self.setup, self._take, lambda: None)
        self.program.start()
        module = importlib.import_module(self.module_name)
        module.hook = None if hook is None else lambda epoch, batch: hook(self, epoch, batch)
        module.epoch_hook = None if epoch_hook is None else lambda epoch: epoch_hook(self, epoch)
        self.program.handle(command, self.dataset)
        self.program.close()  # what is published beside the next command is told after `idle`: here, before it
        idle = [event for event in self.events if isinstance(event, ev.WorkerIdle)]
        return [*(event for event in self.events if event not in idle), *(ev.WorkerIdle("w") for _ in idle)]

    def train(self, hook: Hook | None = None) -> Sequence[ev.Event]:
        return self.work(train_alone("w", 0), hook)

    def save_now(self) -> None:
        """From within training: have the newest finished epoch published, and wait until it is."""
        with self.news:
            told = self.events.count(ev.Saved("w"))
        self.program.interrupt(cmd.SaveNow("w"))
        with self.news:
            assert self.news.wait_for(lambda: self.events.count(ev.Saved("w")) > told, DEADLINE_S)

    def kinds(self, member: int = 0) -> list[str]:
        return [record.kind for record in Log.open(self.store, self.layout.member_log(member)).records()]

    def memory(self, member: int = 0) -> MemberMemory:
        return read_member(Log.open(self.store, self.layout.member_log(member)).records())

    def final(self, member: int = 0) -> Mapping[str, Any]:
        final = self.memory(member).final
        assert final is not None
        return final

    def attempt_log(self, term: int, member: int = 0) -> str:
        prefix = self.layout.attempt_prefix(member, term)
        chunks = [key for key in self.store.list(prefix) if key.startswith(f"{prefix}/log-")]
        return b"".join(self.store.get(key) for key in chunks).decode()
