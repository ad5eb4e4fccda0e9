"""Ray Tune as its documentation shows for Keras: a function, the report-and-checkpoint callback, a Tuner; one trial for
each core. Then the best checkpoint of each trial is loaded and predicts. TASK STEPS_PER_EXECUTION REPORT."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.keras import TuneReportCheckpointCallback

from tests.bench import models
from tests.bench.rivals.common import load, report
from tests.bench.tasks import Task


def train_member(config: dict[str, Any], task: Task, steps_per_execution: int, data: tuple[Any, Any, Any, Any]) -> None:
    import keras

    x, y, x_val, y_val = data
    index = config["member"]
    keras.utils.set_random_seed(task.seeds[index])
    model = getattr(models, task.model)(**task.arguments[index])
    model.compile(**models.COMPILE, steps_per_execution=steps_per_execution)
    callbacks = [TuneReportCheckpointCallback()]
    if task.patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping(patience=task.patience, restore_best_weights=True))
    model.fit(
        x,
        y,
        batch_size=task.batch_size,
        epochs=task.epochs,
        validation_data=(x_val, y_val),
        callbacks=callbacks,
        verbose=0,
    )


def main(task_path: str, steps_per_execution: str, report_path: str) -> None:
    import keras

    task = Task.read(task_path)
    data = load(task)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        trainable = tune.with_parameters(
            train_member, task=task, steps_per_execution=int(steps_per_execution), data=data
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"member": tune.grid_search(list(range(len(task.seeds))))},
            tune_config=tune.TuneConfig(metric="val_loss", mode="min"),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="members",
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="val_loss", checkpoint_score_order="min"
                ),
            ),
        )
        results = tuner.fit()
        predictions, epochs = [], 0
        for result in results:
            checkpoint = result.get_best_checkpoint("val_loss", "min")
            with checkpoint.as_directory() as at:
                model = keras.models.load_model(Path(at) / "model.keras")
            predictions.append(model.predict(data[2], verbose=0))
            epochs += result.metrics["training_iteration"]
    report(report_path, predictions, data[3], epochs)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
