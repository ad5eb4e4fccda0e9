"""Evaluation as one writes it at first: `load_model` and `predict`, member after member, warm. FOLDER DATA REPORT."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np

from tests.bench import models


def main(folder: str, data: str, report_path: str) -> None:
    x, y = getattr(models, data)()["validation"]
    began = time.perf_counter()
    predictions = []
    for path in sorted(Path(folder).glob("*.keras")):
        model = keras.models.load_model(path)
        predictions.append(model.predict(x, verbose=0))
    accuracies = [float(np.mean(each.argmax(axis=1) == y)) for each in predictions]
    accuracy = float(np.mean(np.mean(predictions, axis=0).argmax(axis=1) == y))
    seconds = time.perf_counter() - began
    facts = {"evaluation_s": seconds, "accuracy": accuracy, "members_accuracy": float(np.mean(accuracies))}
    Path(report_path).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
