"""The tests' own processes: how many there are, and that two of them do not get in each other's way."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ByFileOrGroup, pytest_xdist_auto_num_workers
from tests.support.ports import free_ports


@pytest.mark.parametrize(
    ("args", "option", "cores", "workers"),
    [
        (["tests"], {}, 2, 3),
        (["tests/unit", "tests/fault"], {}, 3, 4),
        (["tests"], {"markexpr": "not slow"}, 2, 3),
        (["tests"], {}, 64, 4),
        (["tests"], {}, 1, 0),
        (["tests/unit/test_log.py"], {}, 2, 0),
        (["tests/unit/test_log.py::test_one[a/b]", "tests/unit/test_beat.py"], {}, 2, 0),
        (["tests"], {"markexpr": "soak"}, 2, 0),
        (["tests"], {"capture": "no"}, 2, 0),
    ],
)
def test_folders_are_shared_out_over_the_cores_and_what_is_looked_at_or_measured_is_not(
    args: Sequence[str], option: dict[str, str], cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    config: Any = SimpleNamespace(args=args, option=SimpleNamespace(**{"markexpr": "", "capture": "fd", **option}))
    assert pytest_xdist_auto_num_workers(config) == workers


def test_the_tests_of_a_file_or_of_a_group_run_in_one_process() -> None:
    scheduler = ByFileOrGroup.__new__(ByFileOrGroup)
    scopes = {
        "tests/unit/test_log.py::test_one": "tests/unit/test_log.py",
        "tests/unit/test_log.py::test_one[a@b/c::d]": "tests/unit/test_log.py",
        "tests/integration/test_submission.py::test_one@head": "head",
        "tests/integration/test_doctor.py::test_two[a]@head": "head",
    }
    assert {nodeid: scheduler._split_scope(nodeid) for nodeid in scopes} == scopes


def test_two_processes_never_choose_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        chosen.append(set(free_ports(500)))
    assert [len(ports) for ports in chosen] == [500, 500]
    assert not chosen[0] & chosen[1]


def test_a_port_that_is_taken_is_left_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports(1)[0]))
        taken.listen()
        chosen = {port for _ in range(10) for port in free_ports(1000)}  # two of three, so all of them in ten
        assert len(chosen) > 1000
        assert taken.getsockname()[1] not in chosen
