"""What a worker imports before it trains, and that what it leaves out is there for whoever uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

START = """
import sys
from orchestrator.spec import TrainSpec
from orchestrator.training.device import prepare_backend, start_backend

prepare_backend(TrainSpec(epochs=1), 1, 0)
start_backend(TrainSpec(epochs=1), 1)
print(sorted({"jax", "matplotlib", "pandas", "sklearn"} & set(sys.modules)))

import keras
import numpy as np

keras.visualization.plot_image_gallery(np.zeros((4, 8, 8, 3)), value_range=(0, 1), path=sys.argv[1])
import jax, matplotlib, sklearn
print(jax.numpy.add(1, 1), matplotlib.__name__, sklearn.__name__)
"""


def test_a_worker_imports_no_library_that_it_does_not_need_and_each_is_there_when_used(tmp_path: Path) -> None:
    """A callback of the user's may draw with Keras, or import what it likes."""
    picture = tmp_path / "gallery.png"
    done = subprocess.run(
        [sys.executable, "-c", START, str(picture)], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["[]", "2 matplotlib sklearn"]
    assert picture.read_bytes().startswith(b"\x89PNG")
