"""The log and the files of an attempt: nothing is lost, nothing is sent twice, nothing stops training."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from orchestrator.errors import AccessDenied, StoreUnavailable
from orchestrator.testing import Fault, FaultyStore, MemoryStore
from orchestrator.training import attempt
from orchestrator.training.attempt import AttemptFiles
from orchestrator.training.printing import captured

PREFIX = "tiny/run/attempts/0-1"
logger = logging.getLogger("orchestrator.worker")


class Bench:
    """Files of an attempt on a store whose faults and writes are seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "files"
        self.memory = MemoryStore()
        self.store = FaultyStore(self.memory)
        self.files = AttemptFiles(self.store, PREFIX, self.folder)

    def chunks(self) -> dict[str, str]:
        keys = [key for key in self.memory.list(PREFIX) if key.startswith(f"{PREFIX}/log-")]
        return {key.removeprefix(f"{PREFIX}/"): self.memory.get(key).decode() for key in keys}

    def log(self) -> str:
        return "".join(self.chunks().values())

    def names(self) -> list[str]:
        """Names of the files in storage that are no chunks of the log."""
        names = [key.removeprefix(f"{PREFIX}/") for key in self.memory.list(PREFIX)]
        return [name for name in names if name not in self.chunks()]

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_log_comes_in_numbered_chunks_in_order(bench: Bench) -> None:
    for text in ("one ", "two\n"):
        bench.files.write(text)
    bench.files.flush()
    bench.files.write("three\n")
    bench.files.flush()
    assert bench.chunks() == {"log-00000.txt": "one two\n", "log-00001.txt": "three\n"}


def test_nothing_is_sent_when_there_is_nothing_new(bench: Bench) -> None:
    for _ in range(3):
        bench.files.flush()
    assert bench.memory.list(PREFIX) == []


def test_secrets_are_blotted_out_of_the_log(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "abcdefgh12345678")
    bench.files.write("the token is abcdefgh")
    bench.files.write("12345678, in two writes\n")
    bench.files.flush()
    assert bench.log() == "the token is ***, in two writes\n"


@pytest.mark.parametrize("effect", ["before", "after"])
@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
def test_nothing_is_lost_and_nothing_comes_twice_while_the_store_is_out_of_reach(
    effect: str, error: type[StoreUnavailable], bench: Bench
) -> None:
    fault = Fault("put", effect, times=2, error=error)  # type: ignore[arg-type]
    bench.store.inject(fault)
    for text in ("one\n", "two\n", "three\n", "four\n"):
        bench.files.write(text)
        bench.files.flush()
    assert bench.store.fired[fault] == 2
    assert bench.chunks() == {"log-00000.txt": "one\ntwo\nthree\n", "log-00001.txt": "four\n"}


def test_nothing_is_lost_when_the_operating_system_refuses_a_write(bench: Bench) -> None:
    class Full(MemoryStore):
        def put(self, key: str, body: bytes) -> None:
            raise OSError("no space left on device")

    files = AttemptFiles(Full(), PREFIX, bench.folder)
    files.write("one\n")
    files.flush()
    files._store = bench.store
    files.flush()
    assert bench.log() == "one\n"


def test_memory_is_bounded_and_what_was_dropped_is_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "MAX_UNSENT_CHARS", 1000)
    for number in range(10_000):
        bench.files.write(f"line {number:05d}\n")
        assert bench.files._num_unsent == sum(map(len, bench.files._unsent)) < 1200
    bench.files.flush()
    first, *lines = bench.log().splitlines()
    assert "lost" in first
    assert 40 < len(lines) < 100
    assert lines == [f"line {number:05d}" for number in range(10_000 - len(lines), 10_000)]


def test_a_secret_is_never_cut_in_two_by_what_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "MAX_UNSENT_CHARS", 100)
    monkeypatch.setenv("MY_API_TOKEN", "abcdefgh12345678")
    for length in range(90):
        bench.files.write("abcdefgh12345678" + "." * length)
    bench.files.flush()
    assert "***" in bench.log()
    assert "5678" not in bench.log()


def test_files_are_kept_as_they_change_and_sent_again_only_then(bench: Bench) -> None:
    sent: list[str] = []
    real = bench.memory.put_file
    bench.memory.put_file = lambda key, path: (sent.append(key), real(key, path))[1]  # type: ignore[method-assign]
    bench.write("metrics.csv", "epoch\n0\n")
    bench.write("board/train/events", "x")
    bench.files.flush()
    bench.files.flush()
    assert sorted(sent) == [f"{PREFIX}/board/train/events", f"{PREFIX}/metrics.csv"]
    bench.write("metrics.csv", "epoch\n0\n1\n")
    bench.files.flush()
    assert sent[2:] == [f"{PREFIX}/metrics.csv"]
    assert bench.memory.get(f"{PREFIX}/metrics.csv") == b"epoch\n0\n1\n"


def test_a_file_that_could_not_be_sent_is_sent_at_the_next_flush(bench: Bench) -> None:
    fault = Fault("put_file", "before")
    bench.store.inject(fault)
    bench.write("metrics.csv", "epoch\n")
    bench.files.flush()
    assert bench.store.fired[fault] == 1
    assert bench.names() == []
    bench.files.flush()
    assert bench.names() == ["metrics.csv"]


ODD_NAMES = ["ä b.csv", "a'\"&?#%.csv", "new\nline", ".hidden", "deep/er/x"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_kept(name: str, bench: Bench) -> None:
    bench.write(name, "x")
    bench.files.flush()
    assert bench.names() == [name]


@pytest.mark.parametrize("name", ["back\\slash", ".tmp-0", "log-00000.txt"])
def test_names_that_no_key_can_have_stay_behind_and_hold_nothing_up(
    name: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.write(name, "x")
    bench.write("zzz.csv", "y")
    bench.files.write("log\n")
    for _ in range(2):
        bench.files.flush()
    assert bench.names() == ["zzz.csv"]
    assert bench.log() == "log\n"
    told = [record for record in caplog.records if ascii(name) in record.getMessage()]
    assert len(told) == 1, "it is told once"


def test_one_file_that_the_store_refuses_holds_up_no_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    fault = Fault("put_file", "before", key="aaa", times=None, error=AccessDenied)
    bench.store.inject(fault)
    bench.write("aaa.csv", "x")
    bench.write("bbb.csv", "y")
    bench.files.flush()
    assert bench.store.fired[fault] == 1
    assert bench.names() == ["bbb.csv"]
    assert "stays behind" in caplog.text


def test_a_name_that_is_no_text_stays_behind_or_is_kept_and_stops_nothing(bench: Bench) -> None:
    bench.folder.mkdir()
    (bench.folder / os.fsdecode(b"\xff.csv")).write_text("x")
    (bench.folder / "dangling").symlink_to("nowhere")
    bench.write("zzz.csv", "y")
    bench.files.flush()
    assert "zzz.csv" in bench.names()
    assert "dangling" not in bench.names()


def test_what_is_logged_waits_for_the_thread_that_sends(bench: Bench) -> None:
    with captured({0: bench.files}):
        logger.info("epoch %s", 1)
        assert bench.memory.list(PREFIX) == [], "sending is for the saver's thread"
    bench.files.flush()
    assert len(bench.chunks()) == 1


def test_a_store_out_of_reach_is_logged_without_end_in_itself(bench: Bench) -> None:
    fault = Fault("put", "before", times=2)
    bench.store.inject(fault)
    with captured({0: bench.files}):
        logger.info("one")
        bench.files.flush()
        bench.files.flush()
    bench.files.flush()
    assert bench.store.fired[fault] == 2
    assert bench.log().count("INFO one\n") == 1
    assert bench.log().count("not in storage yet") == 2
