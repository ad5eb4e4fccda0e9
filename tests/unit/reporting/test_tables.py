"""Tables, against golden texts. After a wanted change, look at the new text and copy it over the golden one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from result_examples import member, result

from orchestrator.reporting.tables import plan_text, render

GOLDEN = Path(__file__).parent / "golden"
PLAN_FACTS = {"run id": "digits-0123456789ab", "storage": "runs", "members": 2, "workers": None}
PLAN_ROWS = [
    {
        "storage key": f"digits/digits-0123456789ab/members/{index}",
        "member": index,
        "seed": 4_000_000_000 + index,
        "dropout": 0.1 * (index + 1),
        "builder": "jobs.digits:build_model",
        "hyperparameters": {"units": [64, 32], "rate": 1e-4} if index else {},
    }
    for index in range(2)
]


@pytest.mark.parametrize("width", [80, 100])
def test_the_result_is_rendered_as_the_golden_text(width: int) -> None:
    assert render(result(), width) == (GOLDEN / f"result_{width}.txt").read_text(encoding="utf-8")


def test_a_result_without_validation_says_so() -> None:
    text = render(result(validation=None, test=None, weights=None, gate=None, notes=[]))
    assert text == (GOLDEN / "result_without_validation.txt").read_text(encoding="utf-8")


def test_test_rows_alone_are_enough_for_a_verdict() -> None:
    assert "Was the ensemble worth it?" in render(result(validation=None, weights=None, gate=None))


def test_a_plan_is_rendered_as_the_golden_text() -> None:
    assert plan_text(PLAN_FACTS, PLAN_ROWS) == (GOLDEN / "plan.txt").read_text(encoding="utf-8")


def test_a_plan_shows_further_columns_and_folds_long_values_without_losing_any() -> None:
    key = "x" * 200
    text = plan_text({}, [{"member": 0, "storage key": key, "estimate": "3 min"}], width=60)
    assert "estimate" in text
    assert "dropout" not in text
    assert text.count("x") == 200
    assert max(map(len, text.splitlines())) <= 60


def test_no_number_is_cut_off_at_eighty_columns() -> None:
    text = render(result(), 80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "4000000001" in text


def test_plain_text_has_no_escapes_and_colour_changes_nothing_else() -> None:
    plain, colored = render(result()), render(result(), color=True)
    assert "\x1b" not in plain
    assert "\x1b[" in colored
    assert [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", colored).splitlines()] == plain.splitlines()


def test_the_environment_does_not_change_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render(result())
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert render(result()) == expected


def test_square_brackets_are_text_and_not_markup() -> None:
    text = render(result(notes=["[red]note[/red]"], members=[member(0, message="bad [/] shape", status="failed")]))
    assert "[red]note[/red]" in text
    assert "bad [/] shape" in text


def test_weights_from_the_job_are_said_to_be_given() -> None:
    weights = result().weights
    assert weights is not None
    text = render(result(weights=weights.model_copy(update={"method": "given", "fitted_on": "given"})))
    assert "weights given by the job" in text


def test_a_notebook_shows_the_same_table_with_its_text_escaped() -> None:
    shown = result(notes=["<script>alert(1)</script>"])
    assert str(shown) == render(shown)
    markup = shown._repr_html_()
    assert markup.startswith("<pre>")
    assert "<script>" not in markup
    assert "weighted ensemble" in markup
