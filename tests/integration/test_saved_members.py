"""Members as files and as models again: whole or weights alone, with objects of the job's own, to the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import api
from orchestrator.errors import DamagedStore, InvalidJob
from orchestrator.reporting.result import Result
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

WHOLE, WEIGHTS_ALONE = 0, 1
SOURCE = """
import keras


@keras.saving.register_keras_serializable("own")
class Doubled(keras.layers.Layer):
    def __init__(self, times=2.0, **kwargs):
        super().__init__(**kwargs)
        self.times = times

    def call(self, inputs):
        return self.times * inputs

    def get_config(self):
        return {**super().get_config(), "times": self.times}


@keras.saving.register_keras_serializable("own")
def half_loss(y_true, y_pred):
    return 0.5 * keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


@keras.saving.register_keras_serializable("own")
class Hits(keras.metrics.SparseCategoricalAccuracy):
    pass


class Unregistered(Doubled):
    pass


def build_own(dropout=0.2, layer="Doubled"):
    layers = [keras.layers.Dense(16, activation="relu"), globals()[layer](3.0), keras.layers.Dropout(dropout)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.01), half_loss, metrics=[Hits(name="hits")])
    return model
"""


@dataclass(frozen=True)
class Run:
    project: TinyProject
    result: Result

    def file(self, index: int) -> Path:
        stored = self.result.members[index].model
        assert stored is not None
        return self.project.folder / "runs" / stored.key

    def load(self, index: int) -> Any:
        folder = str(self.project.folder)
        return api.load_member(self.result, index, root=folder, storage=f"{folder}/runs")

    def test_rows(self) -> Any:
        return __import__(self.project.name).load_data()["test"]

    def assert_numbers(self, model: Any, index: int) -> None:
        """The model says what the result says of the member, through `evaluate` and by arg-max."""
        x, y = self.test_rows()
        told = model.evaluate(x, y, verbose=0, return_dict=True)
        figures = self.result.members[index].test
        assert figures is not None
        assert figures.nll is not None
        assert told["hits"] == pytest.approx(figures.accuracy, abs=1e-6)
        assert told["loss"] == pytest.approx(figures.nll / 2, rel=1e-4)
        assert np.mean(model.predict(x, verbose=0).argmax(axis=1) == y) == pytest.approx(figures.accuracy)


@pytest.fixture(scope="module", params=[False, True], ids=["as it is", "preprocessed"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Two members of classes, a loss and a metric that Keras does not know: one whole, one as weights alone."""
    folder = tmp_path_factory.mktemp("saved")
    name = f"tiny_saved_{'preprocessed' if request.param else 'plain'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        project = TinyProject(folder, name, SOURCE)
        job = project.job(
            model=f"{name}:build_own",
            data={"source": f"{name}:load_data", "preprocess": ["standardize"] if request.param else []},
            members={
                "count": 2,
                "vary": {"train.checkpoint.save_weights_only": [False, True], "layer": ["Doubled", "Unregistered"]},
            },
            train={"epochs": 2},
        )
        yield Run(project, run_in_process(job, folder))


def test_a_whole_model_evaluates_in_plain_keras_to_what_the_result_says(run: Run) -> None:
    """Objects of the job's own are found because it registers them; nothing is compiled by hand."""
    import keras

    assert run.file(WHOLE).name == "best.keras"
    run.assert_numbers(keras.models.load_model(run.file(WHOLE)), WHOLE)


def test_weights_alone_are_what_is_published_and_scored(run: Run) -> None:
    assert run.file(WEIGHTS_ALONE).name == "best.weights.h5"
    run.assert_numbers(run.load(WEIGHTS_ALONE), WEIGHTS_ALONE)


def test_a_member_comes_back_with_the_very_bits_of_its_file(run: Run) -> None:
    import keras

    x, _ = run.test_rows()

    loaded, opened = run.load(WHOLE), keras.models.load_model(run.file(WHOLE))

    np.testing.assert_array_equal(loaded.predict(x, verbose=0), opened.predict(x, verbose=0))
    run.assert_numbers(loaded, WHOLE)


def test_users_are_not_warned_of_optimizers_that_prediction_has_no_use_for(run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run.load(WHOLE)


def test_who_is_not_there_and_what_was_tampered_with_is_refused(run: Run) -> None:
    with pytest.raises(InvalidJob, match="no such member"):
        run.load(7)
    stored = run.result.members[WEIGHTS_ALONE].model
    assert stored is not None
    [blob] = (run.project.folder / "runs").rglob(f"blobs/{stored.sha256}-*")
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(DamagedStore, match="the stored bytes are damaged"):
            run.load(WEIGHTS_ALONE)
    finally:
        blob.write_bytes(whole)


def test_code_that_has_changed_since_the_run_is_warned_of(run: Run) -> None:
    module = run.project.folder / f"{run.project.name}.py"
    text = module.read_text()
    module.write_text(text + "\n# changed\n")
    try:
        with pytest.warns(UserWarning, match="not what the run was made with"):
            run.load(WHOLE)
    finally:
        module.write_text(text)
