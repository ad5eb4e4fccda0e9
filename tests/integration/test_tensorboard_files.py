"""TensorBoard's folder of a real run: what Keras' own callback wrote while members trained, and what the run left."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.util.tensor_util import make_ndarray

from tests.support.cli_job import orchestrator, write_tiny_job

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def readers_without_tensorflow() -> Iterator[None]:
    """TensorBoard's readers import TensorFlow where they find it, which takes seconds, unless this module is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
        yield


def test_one_folder_shows_callbacks_members_and_ensemble_of_a_real_run(tmp_path: Path) -> None:
    callback = {"class_name": "TensorBoard", "config": {"log_dir": "board"}}
    job = write_tiny_job(
        tmp_path,
        {"url": "runs"},
        train={"epochs": 2, "batch_size": 20, "callbacks": [callback]},
        report={"html": False, "tensorboard": True},
    )
    ran = orchestrator(job, "run", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "could not be written" not in ran.stderr
    result = json.loads(ran.stdout)

    folder = tmp_path / "my board"
    run = Path(result["run_id"])  # the helper takes a path and passes its name on
    synced = orchestrator(tmp_path / run, "logs", "--sync", str(folder))
    assert (synced.returncode, synced.stdout) == (0, ""), synced.stderr
    assert f"tensorboard --logdir {shlex.quote(str(folder))}" in synced.stderr

    board = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    runs = board.Runs()
    for member in result["members"]:
        name = f"tensorboard/member-{member['index']}"
        assert [event.step for event in board.Scalars(name, "val_loss")] == [1, 2]
        best = board.Scalars(name, "val_loss")[member["best_epoch"] - 1]
        assert best.value == pytest.approx(member["loss"])
        own = [name for name in runs if name.startswith(f"attempts/{member['index']}-") and name.endswith("validation")]
        [losses] = [board.Tensors(name, "epoch_loss") for name in own]
        assert make_ndarray(losses[member["best_epoch"] - 1].tensor_proto) == pytest.approx(member["loss"])
    [scored] = board.Scalars("tensorboard/ensemble", "test/accuracy")
    assert (scored.step, scored.value) == (0, pytest.approx(result["test"]["ensemble"]["accuracy"]))
