"""Progress: plain lines, the live view, the time left, and who gets which."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.reporting.progress import (
    LineProgress,
    LiveProgress,
    MemberProgress,
    Progress,
    SilentProgress,
    epochs_done_and_total,
    live_view,
    make_progress,
    own_metrics,
    time_left,
)

LOGS = {"val_accuracy": 0.91, "loss": 0.31, "val_loss": 0.4}


class HandClock:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.now


def shown(members: dict[int, MemberProgress], elapsed_s: float = 10.0, most: int = 30) -> str:
    console = Console(file=io.StringIO(), width=100, force_jupyter=False, _environ={})
    with console.capture() as capture:
        console.print(live_view("run r: 2 members on 1 worker", members, elapsed_s, most))
    return capture.get()


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "left_s"),
    [
        (0, 10, 5.0, None),
        (5, 10, 5.0, 5.0),
        (1, 4, 2.0, 6.0),
        (10, 10, 5.0, 0.0),
        (11, 10, 5.0, 0.0),
        (0, 0, 1.0, None),
    ],
)
def test_time_left_goes_on_at_the_pace_so_far(done: int, total: int, elapsed_s: float, left_s: float | None) -> None:
    assert time_left(done, total, elapsed_s) == left_s


def test_members_that_have_not_begun_are_taken_to_be_as_long_as_the_longest() -> None:
    members = {0: MemberProgress("running", 4, 20), 1: MemberProgress(), 2: MemberProgress("running", 1, 10)}
    assert epochs_done_and_total(members) == (5, 5 + 16 + 20 + 9)


def test_a_member_that_stopped_early_has_no_epochs_to_come() -> None:
    assert epochs_done_and_total({0: MemberProgress("trained", 7, 20), 1: MemberProgress("running", 5, 20)}) == (12, 27)


def test_nothing_is_known_before_the_first_epoch() -> None:
    assert epochs_done_and_total({0: MemberProgress(), 1: MemberProgress()}) == (0, 0)


def test_a_log_gets_one_plain_line_for_each_event() -> None:
    stream = io.StringIO()
    progress: Progress = LineProgress(stream, HandClock())
    progress.planned(5, 1, "digits-1")
    progress.note("worker 0 is ready")
    progress.epoch(3, 4, 20, LOGS)
    progress.epoch(0, 1, 20, {})
    progress.member(3, "succeeded")
    progress.member(2, "diverged", "loss is NaN [at epoch 2]")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "run digits-1: 5 members on 1 worker",
        "worker 0 is ready",
        "[member 3] epoch 4/20 loss 0.3100 val_loss 0.4000 val_accuracy 0.9100",
        "[member 0] epoch 1/20",
        "[member 3] succeeded",
        "[member 2] diverged: loss is NaN [at epoch 2]",
    ]


def test_of_a_thousand_members_a_log_counts_them_now_and_then_and_tells_what_went_wrong() -> None:
    stream, clock = io.StringIO(), HandClock()
    progress = LineProgress(stream, clock)
    progress.planned(1000, 8, "digits-1")
    for member in range(1000):
        for epoch in range(1, 21):
            progress.epoch(member, epoch, 20, LOGS)
        progress.member(member, "trained")
        clock.now += 0.1
    progress.member(7, "diverged", "loss is NaN")
    first, *lines, last = stream.getvalue().splitlines()
    assert first == "run digits-1: 1000 members on 8 workers"
    assert len(lines) == 9
    assert (
        lines[0]
        == "1 running, 101 trained, 898 waiting · 2021 of 20000 epochs · at most about 1 min 30 s of training left"
    )
    assert last == "[member 7] diverged: loss is NaN"


def test_a_thousand_members_take_no_more_of_a_terminal_than_thirty() -> None:
    members = {index: MemberProgress("running", 1, 20, LOGS) for index in range(1000)}
    assert len(shown(members).splitlines()) == 3 + 30 + 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (1e-4, "0.0001"), (2.5e-7, "2.5e-07"), (123456.0, "1.23e+05"), (float("nan"), "nan")],
)
def test_numbers_stay_readable_at_any_size(value: float, text: str) -> None:
    stream = io.StringIO()
    LineProgress(stream, HandClock()).epoch(0, 1, 1, {"loss": value})
    assert stream.getvalue() == f"[member 0] epoch 1/1 loss {text}\n"


def test_the_live_view_shows_members_epochs_validation_metrics_and_time_left() -> None:
    text = shown({0: MemberProgress("running", 5, 20, LOGS), 1: MemberProgress()})
    assert "5/20" in text
    assert "val_loss 0.4000 val_accuracy 0.9100" in text
    assert " loss 0.3100" not in text
    assert "1 running, 1 waiting · 5 of 40 epochs · at most about 1 min 10 s of training left" in text


def test_without_validation_the_live_view_shows_the_training_metrics() -> None:
    assert "loss 0.3100" in shown({0: MemberProgress("running", 1, 2, {"loss": 0.31})})


def test_with_many_members_the_live_view_shows_the_running_ones_and_counts_the_rest() -> None:
    members = {index: MemberProgress("done", 2, 2) for index in range(20)}
    members |= {20: MemberProgress("running", 1, 2), 21: MemberProgress("running", 2, 2)}
    members |= {index: MemberProgress() for index in range(22, 40)}
    text = shown(members)
    assert len(text.splitlines()) == 6  # headline, heading, rule, two running, summary
    assert "20 done, 2 running, 18 waiting" in text


def test_a_terminal_that_is_low_gets_no_more_rows_than_fit() -> None:
    members = {index: MemberProgress("running", 1, 2) for index in range(10)}
    assert len(shown(members, most=4).splitlines()) == 3 + 4 + 1


def test_the_live_table_is_drawn_and_closing_twice_is_fine() -> None:
    stream, clock = io.StringIO(), HandClock()
    progress = LiveProgress(stream, clock, color=False)
    progress.planned(2, 1, "digits-1")
    clock.now += 10
    progress.epoch(0, 5, 20, LOGS)
    progress.member(1, "failed", "out of [memory]")
    progress.note("[note]")
    progress.close()
    progress.close()
    text = stream.getvalue()
    assert "run digits-1: 2 members on 1 worker" in text
    assert "5/20" in text
    assert "30 s of training left" in text
    assert "[member 1] failed: out of [memory]" in text
    assert "[note]" in text


def test_closing_before_anything_was_planned_is_fine() -> None:
    for progress in (
        LiveProgress(io.StringIO(), HandClock()),
        LineProgress(io.StringIO(), HandClock()),
        SilentProgress(),
    ):
        progress.close()


def test_silent_progress_takes_every_call() -> None:
    progress: Progress = SilentProgress()
    progress.planned(1, 1, "r")
    progress.note("x")
    progress.epoch(0, 1, 1, {})
    progress.member(0, "failed", "x")
    progress.close()


@pytest.mark.parametrize(
    ("isatty", "environ", "kind"),
    [
        (True, {"TERM": "xterm"}, LiveProgress),
        (True, {"TERM": "dumb"}, LineProgress),
        (False, {"TERM": "xterm"}, LineProgress),
        (True, {"NO_COLOR": "1"}, LiveProgress),
    ],
)
def test_a_terminal_gets_the_live_table_and_all_else_lines(isatty: bool, environ: dict[str, str], kind: type) -> None:
    assert type(make_progress(io.StringIO(), isatty, environ, HandClock())) is kind


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_no_color_is_honoured(no_color: str, colored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    progress = make_progress(stream, True, {"TERM": "xterm", "NO_COLOR": no_color}, HandClock())
    progress.planned(1, 1, "r")
    progress.member(0, "failed")
    progress.close()
    assert ("\x1b[31m" in stream.getvalue()) is colored


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("species", {"loss", "val_loss", "species_loss", "val_species_accuracy", "learning_rate"}),
        ("mass", {"loss", "val_loss", "mass_mae", "val_mass_mae", "learning_rate"}),
        ("mass_of_egg", {"loss", "val_loss", "val_mass_of_egg_mae", "learning_rate"}),
    ],
)
def test_of_several_outputs_the_metrics_of_one_are_shown(output: str, shown: set[str]) -> None:
    whole = ("loss", "val_loss", "learning_rate")
    logs = dict.fromkeys((*whole, "species_loss", "val_species_accuracy", "mass_mae", "val_mass_mae"), 0.5)
    logs["val_mass_of_egg_mae"] = 0.5
    outputs = ["species", "mass", "mass_of_egg"]
    assert set(own_metrics(logs, output, outputs)) == shown
    assert set(own_metrics(logs, output, outputs, ["val_mass_mae", None])) == shown | {"val_mass_mae"}


def test_of_an_only_output_everything_is_shown() -> None:
    logs = {"loss": 0.5, "accuracy": 0.5}
    assert own_metrics(logs, "", [""]) == logs
