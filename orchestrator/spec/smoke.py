"""The same job made small: whether everything works from data to report, told in a minute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.job import Job
from orchestrator.spec.load import parse_job
from orchestrator.spec.varied import PREFIX

MEMBERS = 2
FOLDS = 2
MAX_ROWS = 512
SUFFIX = "-smoke"
"""What is put behind the name: a smoke run is no run of the job, and is stored beside those."""

_LONGEST_NAME = 63
_OF_LENGTH = ("epochs", "checkpoint.save_freq", "checkpoint.initial_value_threshold")
"""Settings of `train` that one short epoch cannot have: how long it is, and what must be reached to keep a model."""


@dataclass(frozen=True)
class SmokeJob:
    """A job that is small, and what its result says of that, a sentence each."""

    job: Job
    notes: tuple[str, ...]


def smoke_job(job: Job) -> SmokeJob:
    """The job with two members (with folds two configurations of two folds), one epoch and 512 rows of each set.

    A search has two trials; three, in two generations, where its sampler learns from trials. Members keep their own
    architectures and settings, but for how long they train. What one epoch cannot be held to is left out: gate,
    deadline, quorum (all members have to work) and pruning.
    """
    data = job.model_dump()
    _shorten(data["train"])
    data["name"] = job.name[: _LONGEST_NAME - len(SUFFIX)] + SUFFIX
    data["data"]["max_rows"] = min(MAX_ROWS, job.data.max_rows or MAX_ROWS)
    for model in (data["model"], *(each["model"] for each in data["members"]["overrides"].values())):
        for stage in model["stages"] if model else ():
            stage["epochs"] = 1
    if data["search"] is not None:
        _shrink_search(data["search"], learns=job.search is not None and job.search.learns)
    _shrink_members(data["members"], most=MEMBERS if data["search"] is None else min(MEMBERS, data["search"]["trials"]))
    left_out = _relax(data["ensemble"], data["members"]["count"])
    left_out += ["search.pruning"] if job.search is not None and job.search.pruning is not None else []
    small = parse_job(data, filename=f"{job.name}, made small by --smoke")
    return SmokeJob(small, tuple(_notes(small, left_out)))


def _shorten(train: dict[str, Any]) -> None:
    train["epochs"] = 1
    train["checkpoint"] = _without_length("checkpoint", train["checkpoint"])


def _shrink_search(search: dict[str, Any], *, learns: bool) -> None:
    space = {name: axis for name, axis in search["space"].items() if not _is_of_length(name)}
    space = {name: _axis_without_length(name, axis) for name, axis in space.items()}
    search["space"] = space or {f"{PREFIX}epochs": (1,)}
    search["pruning"] = None
    if search["sampler"] == "grid":
        left = MEMBERS
        for name, axis in search["space"].items():
            search["space"][name] = axis[:left]
            left //= len(search["space"][name])
        search["trials"] = math.prod(map(len, search["space"].values()))
    else:
        search["trials"] = min(search["trials"], MEMBERS + learns)
        search["parallel"] = MEMBERS if learns else None


def _shrink_members(members: dict[str, Any], most: int) -> None:
    members["count"] = min(members["count"], most)
    varied = {name: axis for name, axis in members["vary"].items() if not _is_of_length(name)}
    members["vary"] = {name: _axis_without_length(name, axis) for name, axis in varied.items()}
    members["overrides"] = {i: each for i, each in members["overrides"].items() if i < members["count"]}
    for override in members["overrides"].values():
        kept = {key: value for key, value in override["train"].items() if key not in _OF_LENGTH}
        override["train"] = {key: _without_length(key, value) for key, value in kept.items()}
    if members["folds"] is not None:
        members["folds"] |= {"count": FOLDS, "repeats": 1}


def _is_of_length(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX) in _OF_LENGTH


def _axis_without_length(name: str, axis: Any) -> Any:
    """The values that differ by member or trial; a mapping with `min` and `max` is a range of numbers."""
    if not name.startswith(PREFIX) or isinstance(axis, dict):
        return axis
    return tuple(_without_length(name.removeprefix(PREFIX), value) for value in axis)


def _without_length(key: str, value: Any) -> Any:
    """A value of a setting of `train`: of a mapping without what one short epoch cannot have."""
    if not isinstance(value, dict):
        return value
    return {name: each for name, each in value.items() if f"{key}.{name}" not in _OF_LENGTH}


def _relax(ensemble: dict[str, Any], count: int) -> list[str]:
    """Take out what a smoke run is not held to; returns the keys that said something."""
    if isinstance(ensemble["weights"], list | tuple):
        weights = ensemble["weights"][:count]
        ensemble["weights"] = weights if sum(weights) > 0 else [1.0] * count
    said = [key for key in ("quorum", "deadline") if ensemble[key] is not None]
    ensemble |= {"quorum": None, "deadline": None}
    if ensemble["gate"] is not None:
        ensemble["gate"] = None
        return ["ensemble.gate, which is not judged", *(f"ensemble.{key}" for key in said)]
    return [f"ensemble.{key}" for key in said]


def _notes(job: Job, left_out: list[str]) -> list[str]:
    count = job.members.total if job.search is None else job.search.num_trials
    what = ("member" if job.search is None else "trial") + ("s" if count > 1 else "")
    epochs = "1 epoch a stage" if job.model.stages else "1 epoch"
    told = f"smoke run: {count} {what}, {epochs}, ≤ {job.data.max_rows} rows: whole flow works; not a result"
    return [told, f"left out in a smoke run: {'; '.join(left_out)}"] if left_out else [told]
