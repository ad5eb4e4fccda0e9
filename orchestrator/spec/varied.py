"""Settings of `train` that differ by member: dotted keys with a value each, and the settings that come of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.base import SHAPES
from orchestrator.spec.train import TrainSpec

PREFIX = "train."
"""What a key of `members.vary` begins with that names no keyword of the build function."""

OF_THE_RUN = ("backend", "engine", "deterministic")
"""What a worker's process, or the packing of all members, is decided by: no member has its own."""

_NAME_OF_SHORT = "class_name"
"""What a plain text stands for where a key goes below it: `optimizer: Adam`."""


def wrong_train_value(train: TrainSpec, key: str, value: Any) -> str | None:
    """What is wrong with one member's value of a key below `train`, such as `optimizer.config.learning_rate`."""
    if key.partition(".")[0] in OF_THE_RUN:
        return f"is the same for all members of a run, so {key} cannot differ"
    try:
        train_with(train, {key: value})
    except ValidationError as error:
        return _told(error.errors(include_url=False)[0])
    except (LookupError, ValueError) as error:
        return str(error.args[0])
    return None


def _told(details: ErrorDetails) -> str:
    """The first of pydantic's errors, in words that follow the key of the job that names the setting."""
    path = [str(part) for part in details["loc"] if part not in SHAPES]
    place = ".".join(["train", *path])
    if details["type"] == "problems":
        problem = details["ctx"]["problems"][0]
        return f"gives a train.{'.'.join(map(str, (*path, *problem.path)))} that {problem.what}"
    if details["type"] == "extra_forbidden":
        return _unknown(path)
    if path[-1:] == ["class_name"] and details["type"] == "missing":
        owner = ".".join(["train", *path[:-1]])
        rate = ", or name train.learning_rate instead" if owner == "train.optimizer" else ""
        return f"goes below {owner}, which the job does not give: set {owner}{rate}"
    return f"gives no {place}: {details['msg']}"


def _unknown(path: Sequence[str]) -> str:
    # Imported here: it knows the keys of the whole job, which is made of parts that look at their values here.
    from orchestrator.spec.keys import nearest_key

    nearest = nearest_key(("train", *path))
    told = f"names no setting: train.{'.'.join(path)} is not a key of a job"
    return f"{told}; did you mean {nearest}?" if nearest else told


def train_with(train: TrainSpec, values: Mapping[str, Any]) -> TrainSpec:
    """The settings with some of them replaced.

    Args:
        train: the job's.
        values: by dotted key below `train`; what a key goes below is made where it is missing or written short.

    Raises:
        ValidationError, LookupError, ValueError: a key or a value that `train` does not have.
    """
    if not values:
        return train
    data = train.model_dump(mode="json")
    for key, value in values.items():
        _set(data, key.split("."), value, key)
    return TrainSpec.model_validate(data)


def _set(data: dict[str, Any], names: list[str], value: Any, key: str) -> None:
    below: Any = data
    for name in names[:-1]:
        place = _place(below, name, key)
        inner = below.get(place) if isinstance(below, dict) else below[place]
        if inner is None:
            inner = {}
        elif isinstance(inner, str):
            inner = {_NAME_OF_SHORT: inner}
        elif not isinstance(inner, dict | list):
            raise ValueError(f"goes below train.{name}, which is a plain value: {key}")
        below[place] = below = inner
    below[_place(below, names[-1], key)] = value


def _place(container: dict[str, Any] | list[Any], name: str, key: str) -> str | int:
    if isinstance(container, dict):
        return name
    if not (name.isascii() and name.isdecimal()) or int(name[:9]) >= len(container):
        raise LookupError(f"there is no entry {name} in the list, as {key} says")
    return int(name)
