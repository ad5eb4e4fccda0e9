"""The Fashion-MNIST jobs: on a small generated IDX set always, on the complete one where it is there."""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from jobs import fashion_mnist
from orchestrator import load_job, run
from orchestrator.training.device import Device

ROOT = Path(__file__).parents[2]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """Pictures with a bright bar whose place tells the class: easy, but not trivial with the noise."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 600), ("t10k", 100)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 120, (count, 28, 28))
        for row, label in enumerate(labels):
            images[row, 2 * label : 2 * label + 3] += 120
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_idx_files_are_read_with_their_shape(small_set: Path) -> None:
    images = fashion_mnist.read_idx(small_set / "t10k-images-idx3-ubyte.gz")
    assert images.shape == (100, 28, 28)
    assert images.dtype == np.uint8


def test_a_file_that_is_no_idx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\x1f\x8b\x08\x00 no images"))
    with pytest.raises(ValueError, match="not an IDX file"):
        fashion_mnist.read_idx(tmp_path / "x.gz")


def test_missing_data_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "nowhere")
    monkeypatch.setitem(__import__("sys").modules, "keras", None)
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        fashion_mnist.load_data()


@pytest.mark.slow
@pytest.mark.parametrize("job", ["fashion_mnist", "fashion_cnn", "lenet_ensemble"])
def test_job_learns_the_small_set(
    job: str, small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDER", small_set)
    path = ROOT / "jobs" / f"{job}.yaml"
    load = load_job(str(path)).data.source.partition(":")[2]
    settings = ["members.count=2", "train.epochs=4", f"storage.url={tmp_path}/runs"]
    settings += ["members.dropout=[.1,.4]"] if job == "fashion_mnist" else []
    # The data is loaded in a worker process, which has its own module: the folder travels in the source reference.
    loader = tmp_path / "small_fashion.py"
    loader.write_text(
        "from pathlib import Path\nfrom jobs import fashion_mnist\n\n\ndef load_data():\n"
        f"    fashion_mnist.FOLDER = Path({str(small_set)!r})\n    return fashion_mnist.{load}()\n"
    )
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    loaded = load_job(
        str(path), [*settings, "data=small_fashion:load_data", "train.batch_size=16", "ensemble.gate=null"]
    )
    result = run(loaded, root=str(tmp_path))
    assert result.test is not None
    assert result.test.ensemble.accuracy > 0.8
    assert result.test.ensemble.n == 100
    assert result.test.ensemble.ece is not None
    assert {"accuracy", "nll", "ece"} <= result.test.ensemble.intervals.keys()


def test_the_lenet_job_follows_the_published_protocol(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = load_job(str(ROOT / "jobs" / "lenet_ensemble.yaml"))
    train = job.train
    assert (job.members.count, train.epochs, train.batch_size) == (10, 25, 256)
    assert train.early_stopping is None
    assert not train.checkpoint.save_best_only
    assert job.members.dropout is None
    monkeypatch.setattr(fashion_mnist, "FOLDER", small_set)
    splits = fashion_mnist.load_50k()
    assert {name: len(y) for name, (_, y) in splits.items()} == {"train": 500, "validation": 100, "test": 100}


@pytest.mark.slow
def test_lenet_has_the_published_shape(device: Device) -> None:
    model = fashion_mnist.build_lenet()
    assert model.output_shape == (None, 10)
    assert (
        model.count_params() == 545_546
    )  # 156 + 2,416 + 48,120 in the convolutions, 494,004 + 850 in the dense layers
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


@pytest.mark.slow
def test_textbook_job_on_the_complete_set_reaches_the_hand_written_loop(tmp_path: Path, ray_session: None) -> None:
    """A hand-written Keras loop (seeds 0–3, 5 epochs) gave 0.870 for the mean member and 0.881 for the average."""
    if not fashion_mnist.FOLDER.is_dir():
        warnings.warn(f"not run: {fashion_mnist.HOW_TO_GET_IT}", stacklevel=1)
        return
    job = load_job(str(ROOT / "jobs" / "fashion_mnist.yaml"), [f"storage.url={tmp_path}/runs"])
    result = run(job, root=str(ROOT))
    assert result.validation is not None
    assert result.validation.ensemble.n == 12_000
    assert result.validation.members_mean.accuracy >= 0.868
    assert result.validation.ensemble.accuracy >= 0.879
