"""A worker's preflight leaves behind what a report needs to show examples, without the data and without a worker."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from orchestrator import api
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.examples import Examples, read_examples
from orchestrator.storage.open import open_store
from orchestrator.storage.records import BlobRef
from orchestrator.training.data import Dataset
from orchestrator.training.program import Program
from orchestrator.training.setup import WorkerSetup
from tests.support.in_process import load
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = """

def _with(inputs):
    return {name: (inputs(x), y) for name, (x, y) in load_data().items()}


def load_pictures():
    return _with(lambda x: x.reshape(-1, 8, 8))


def load_pictures_and_tables():
    return _with(lambda x: {"flat": x, "narrow": x[:, :5], "picture": x.reshape(-1, 8, 8, 1)})


def load_tables():
    return _with(lambda x: {"flat": x, "narrow": x[:, :5]})


def build_any(inputs):
    import keras

    entries = {name: keras.Input(shape, name=name) for name, shape in inputs.items()}
    flat = [keras.layers.Flatten()(entry) for entry in entries.values()]
    merged = flat[0] if len(flat) == 1 else keras.layers.Concatenate()(flat)
    outputs = keras.layers.Dense(10, activation="softmax")(merged)
    model = keras.Model(entries if len(flat) > 1 else next(iter(entries.values())), outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model
"""
PICTURE, NARROW, FLAT = (8, 8), (5,), (64,)


class Preflight:
    """The preflight of a job with such data, by the worker's real program."""

    def __init__(self, folder: Path, data: str, inputs: Mapping[str, Sequence[int]] | None = None) -> None:
        project = TinyProject(folder, f"tiny_{secrets.token_hex(4)}", SOURCE)
        model = {"builder": f"{project.name}:build_any", "kwargs": {"inputs": inputs}}
        parts = {"model": model} if inputs else {}
        planned = api.plan(project.job(data=f"{project.name}:{data}", **parts), root=str(folder))
        job = planned.request.job
        self.store = open_store(job.storage.url)
        self.dataset: Dataset = load(job)
        setup = WorkerSetup(
            worker="w",
            job=job,
            plan=planned.request.plan,
            layout=planned.request.layout,
            coord_term=1,
            code_root=str(folder),
            num_cpus=1,
            num_gpus=0,
        )
        events: list[ev.Event] = []
        program = Program(setup, events.append, lambda: None)
        program.start()
        program.handle(cmd.Preflight("w"), self.dataset)
        program.close()
        passed = events[0]
        assert isinstance(passed, ev.PreflightPassed), passed
        self.passed = passed

    def examples(self, split: str) -> Examples:
        return read_examples(get_blob(self.store, BlobRef.from_json(self.passed.examples[split], where=split)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_pictures_of_the_scored_rows_are_kept(folder: Path) -> None:
    preflight = Preflight(folder, "load_pictures", {"x": PICTURE})
    assert set(preflight.passed.examples) == set(preflight.passed.labels) == {"validation", "test"}
    for name, split in preflight.dataset.splits():
        if name != "train":
            kept = preflight.examples(name)
            assert isinstance(split.x, np.ndarray)
            assert (kept.rows.tolist(), kept.names, kept.values) == ([*range(split.num_rows)], ("x",), None)
            np.testing.assert_array_equal(kept.images, np.rint(split.x * 255))  # digits go from 0 to 1


def test_of_several_inputs_the_picture_is_kept(folder: Path) -> None:
    inputs = {"flat": FLAT, "narrow": NARROW, "picture": (*PICTURE, 1)}
    kept = Preflight(folder, "load_pictures_and_tables", inputs).examples("test")
    assert kept.names == ("picture",)
    assert kept.images is not None
    assert kept.images.shape == (50, *PICTURE)


def test_of_inputs_without_a_picture_the_narrow_table_is_kept(folder: Path) -> None:
    preflight = Preflight(folder, "load_tables", {"flat": FLAT, "narrow": NARROW})
    kept = preflight.examples("validation")
    assert kept.names == tuple(f"narrow[{column}]" for column in range(5))
    assert preflight.dataset.validation is not None
    assert isinstance(preflight.dataset.validation.x, dict)
    np.testing.assert_array_equal(kept.values, preflight.dataset.validation.x["narrow"])


def test_inputs_that_cannot_be_shown_are_not_kept_and_the_preflight_passes(folder: Path) -> None:
    preflight = Preflight(folder, "load_data")
    assert preflight.passed.examples == {}
    assert set(preflight.passed.labels) == {"validation", "test"}


def test_a_successors_preflight_keeps_the_same_bytes(folder: Path) -> None:
    first, second = (Preflight(folder, "load_pictures", {"x": PICTURE}).passed.examples for _ in range(2))
    for split in ("validation", "test"):
        assert first[split]["sha256"] == second[split]["sha256"]
        assert first[split]["key"] != second[split]["key"]
