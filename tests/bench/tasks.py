"""What all contestants of a row are given: the same members, data and stopping rules, as one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODULE = "tests.bench.models"
DROPOUTS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Task:
    """An ensemble to train.

    Attributes:
        model: function of `tests.bench.models` that builds a member, given `dropout` unless `dropouts` is empty.
        data: function of `tests.bench.models` that returns the rows.
        seeds: one for each member, those that our own planner gives the job.
        dropouts: one rate for each member, or none at all.
        epochs, batch_size: of `fit`.
        patience: of `EarlyStopping` on `val_loss`; None: no early stopping.
    """

    model: str
    data: str
    seeds: tuple[int, ...]
    dropouts: tuple[float, ...]
    epochs: int
    batch_size: int
    patience: int | None

    @property
    def arguments(self) -> list[dict[str, float]]:
        """What each member's builder is called with."""
        return [{"dropout": rate} for rate in self.dropouts] or [{} for _ in self.seeds]

    def write(self, path: Path) -> Path:
        """Write it for a process that is to run it."""
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def read(cls, path: str) -> Task:
        """Read what `write` wrote."""
        known = json.loads(Path(path).read_text())
        return cls(**{**known, "seeds": tuple(known["seeds"]), "dropouts": tuple(known["dropouts"])})


def make_task(
    model: str,
    data: str,
    num_members: int,
    *,
    epochs: int,
    batch_size: int = 32,
    patience: int | None = 2,
    takes_dropout: bool = True,
) -> Task:
    """A task whose members have the dropout rates .1–.5 in turn, and the seeds that our planner gives such a job."""
    from orchestrator.planning.seeds import member_seed

    seeds = tuple(member_seed(0, index) for index in range(num_members))
    rates = tuple(DROPOUTS[index % len(DROPOUTS)] for index in range(num_members)) if takes_dropout else ()
    return Task(model, data, seeds, rates, epochs, batch_size, patience)


def job_of(task: Task, storage: Path | str, **train: Any) -> dict[str, Any]:
    """The task as a job of ours.

    Args:
        task: what to train.
        storage: where its runs lie.
        train: further settings under `train:`.
    """
    stopping = {"monitor": "val_loss", "patience": task.patience, "restore_best_weights": True}
    return {
        "name": "bench",
        "seed": 0,
        "model": f"{MODULE}:{task.model}",
        "data": {"source": f"{MODULE}:{task.data}"},
        "members": {
            "count": len(task.seeds),
            **({"dropout": list(task.dropouts)} if task.dropouts else {}),
        },
        "train": {
            "epochs": task.epochs,
            "batch_size": task.batch_size,
            "early_stopping": False if task.patience is None else stopping,
            "checkpoint": {"monitor": "val_loss", "save_best_only": True},
            **train,
        },
        "storage": {"url": str(storage)},
    }
