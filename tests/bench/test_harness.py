"""The harness itself: deadlines, contestants that fail, medians and verdicts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.storage.retry import Patience
from tests.bench.harness import Bar, Bench, Contestant, Failed, Figure, Outcome, ratios, run_process
from tests.bench.rows.blocked_on_storage import Lookout
from tests.bench.table import markdown, text
from tests.bench.tasks import Task, make_task

MACHINE = {"CPU": "an abacus", "cores": "10"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(quick=False, rounds=None, folder=tmp_path)


def takes(*seconds: float) -> Contestant:
    rest = iter(seconds)
    return lambda: Outcome(next(rest))


def test_the_figure_is_the_median_of_the_rounds_ratios(bench: Bench) -> None:
    found = bench.run({"ours": takes(1, 2, 4), "rival": takes(10, 10, 10)}, rounds=3)

    figure = Figure("P1", "faster", "a loop", ratios(found["rival"], found["ours"]), bar=Bar(5))

    assert figure.values == (10, 5, 2.5)
    assert figure.value == 5
    assert figure.verdict(quick=False) == "met"


def test_every_second_round_runs_backwards(bench: Bench) -> None:
    order: list[str] = []

    def contestant(name: str) -> Contestant:
        return lambda: Outcome(float(len(order)), {"n": order.append(name)})

    bench.run({name: contestant(name) for name in "abc"}, rounds=2)

    assert order == ["a", "b", "c", "c", "b", "a"]


def test_who_fails_drops_out_and_the_others_go_on(bench: Bench) -> None:
    def fails() -> Outcome:
        raise Failed("out of breath")

    found = bench.run({"ours": takes(1, 1), "rival": fails}, rounds=2)
    figure = Figure("P1", "faster", "a rival", ratios(found["rival"], found["ours"]), problem=found["rival"].problem)

    assert len(found["ours"].outcomes) == 2
    assert figure.verdict(quick=False) == "NOT MEASURED"
    assert "out of breath" in text(MACHINE, [figure], quick=False)


@pytest.mark.parametrize(
    ("bar", "value", "verdict"),
    [
        (Bar(6), 5.99, "MISSED"),
        (Bar(6), 6.0, "met"),
        (Bar(2, at_most=True), 2.01, "MISSED"),
        (Bar(2, at_most=True), 2.0, "met"),
        (None, 1.0, ""),
    ],
)
def test_a_missed_bar_is_shown_as_missed(bar: Bar | None, value: float, verdict: str) -> None:
    figure = Figure("P1", "what", values=(value,), bar=bar)

    assert figure.verdict(quick=False) == verdict
    assert verdict in markdown(MACHINE, [figure], quick=False)


def test_a_quick_run_gives_no_verdict() -> None:
    figure = Figure("P1", "what", values=(1.0,), bar=Bar(6))

    assert figure.verdict(quick=True) == "quick: no verdict"


def test_the_markdown_table_names_the_machine_and_the_spread() -> None:
    table = markdown(MACHINE, [Figure("P2", "share", "JAX", (0.7, 0.9, 0.8), bar=Bar(0.8))], quick=False)

    assert "an abacus" in table
    assert "| P2 | share | JAX | 0.8 × | 3: 0.7–0.9 | ≥ 0.8 × | met |" in table


def test_a_process_that_does_not_end_in_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )

    with pytest.raises(Failed, match="did not end within"):
        run_process([sys.executable, "-c", code], deadline_s=3)

    for pid in pids.read_text().split():
        assert not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Whether the process runs still; one that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(Failed, match=r"ended with 1.*no such luck"):
        run_process([sys.executable, "-c", "raise SystemExit('no such luck')"], deadline_s=30)


def test_a_task_survives_its_file(tmp_path: Path) -> None:
    task = make_task("mlp", "pictures", 7, epochs=3)

    assert Task.read(str(task.write(tmp_path / "task.json"))) == task
    assert len(set(task.seeds)) == 7


def test_the_lookout_sees_a_thread_that_waits_for_storage_and_one_that_does_not() -> None:
    shares = {}
    for name, waits_in_storage in (("storage", True), ("elsewhere", False)):
        let_go = threading.Event()

        def wait(let_go: threading.Event = let_go) -> None:
            if not let_go.wait(30):
                raise StoreUnavailable("nobody let go")

        target = (lambda wait=wait: Patience().retry(wait)) if waits_in_storage else wait
        thread = threading.Thread(target=target)
        thread.start()
        assert thread.ident is not None
        lookout = Lookout(thread.ident)
        lookout.in_epochs.set()
        wait_for_looks(lookout, 20)
        lookout.end()
        let_go.set()
        thread.join(timeout=30)
        shares[name] = lookout.blocked()

    assert shares["storage"] > 0.8
    assert shares["elsewhere"] == 0


def wait_for_looks(lookout: Lookout, count: int) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if lookout.num_looks() >= count:
            return
        pause.wait(0.01)
    raise AssertionError(f"{lookout.num_looks()} looks in 30 s")
