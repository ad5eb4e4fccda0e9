"""Was the ensemble worth it? The answer by table, and what the sentence owes its reader."""

from __future__ import annotations

import pytest

from orchestrator.reporting.result import GateResult, Result, RunsBefore
from orchestrator.reporting.scores import Figure
from orchestrator.reporting.verdict import Answer, compared, gain_text, judge, score_text, verdict_of
from tests.support.report_cases import TEST_ROWS, VALIDATION_ROWS, gain, member, result


@pytest.mark.parametrize(
    ("value", "low", "high", "answer"),
    [
        (0.02, 0.01, 0.03, "clearly"),
        (0.02, 1e-9, 0.04, "clearly"),
        (0.02, 0.0, 0.04, "probably"),
        (0.02, -0.01, 0.05, "probably"),
        (0.02, -0.01, 0.03, "probably"),  # exactly a quarter of the interval is below 0
        (0.02, -0.011, 0.03, "cannot be told"),
        (0.001, -0.02, 0.02, "cannot be told"),
        (0.0, -0.02, 0.02, "cannot be told"),
        (-0.001, -0.02, 0.02, "cannot be told"),
        (-0.02, -0.03, 0.01, "no"),
        (-0.02, -0.03, -0.01, "no"),
        (0.0, 0.0, 0.0, "no"),
    ],
)
def test_the_intervals_place_decides_the_answer(value: float, low: float, high: float, answer: Answer) -> None:
    assert judge(value, low, high) == answer


def with_gains(*test: object, **changes: object) -> Result:
    made = result(**changes)  # type: ignore[arg-type]
    assert made.test is not None
    return made.model_copy(update={"test": made.test.model_copy(update={"gains": test})})


def test_the_sentence_says_against_what_on_which_rows_and_what_these_were_used_for() -> None:
    verdict = verdict_of(with_gains(gain("accuracy", "best_member", 0.017), gain("accuracy", "members_mean", 0.03)))
    assert verdict.answer == "clearly"
    assert TEST_ROWS in verdict.sentence
    assert "1.70 points better (95 % interval +0.70 to +2.70 points) than the best single member (member 1)" in (
        verdict.sentence
    )
    assert "3.00 points better (95 % interval +2.00 to +4.00 points) than the mean member" in verdict.sentence


def test_without_test_rows_validation_answers_and_the_verdict_warns_of_what_they_were_used_for() -> None:
    verdict = verdict_of(result(test=None))
    assert verdict.answer == "clearly"
    assert VALIDATION_ROWS in verdict.sentence
    assert any("no test set" in caveat for caveat in verdict.caveats)


def test_clearly_better_probabilities_lift_what_accuracy_cannot_tell_and_no_more() -> None:
    unclear, nll = gain("accuracy", "best_member", 0.001, -0.02, 0.02), gain("nll", "best_member", 0.05, 0.02, 0.08)
    assert verdict_of(with_gains(unclear)).answer == "cannot be told"
    lifted = verdict_of(with_gains(unclear, nll))
    assert lifted.answer == "probably"
    assert "But its negative log-likelihood is 0.0500 better" in lifted.sentence
    worse = gain("accuracy", "best_member", -0.02, -0.03, -0.01)
    verdict = verdict_of(with_gains(worse, nll))
    assert (verdict.answer, "But its" in verdict.sentence) == ("no", True)


def test_a_regression_is_judged_by_its_error() -> None:
    verdict = verdict_of(with_gains(gain("rmse", "best_member", 0.12, 0.02, 0.2), task="regression"))
    assert verdict.answer == "clearly"
    assert "an RMSE of 0.91" in verdict.sentence
    assert "0.1200 better (95 % interval +0.0200 to +0.2000)" in verdict.sentence


def test_one_member_is_no_ensemble() -> None:
    assert verdict_of(result(num_members=1)).answer == "no"
    others = [member(1, {}).model_copy(update={"status": "diverged"})]
    alone = result(num_members=1)
    assert verdict_of(alone.model_copy(update={"members": (*alone.members, *others)})).answer == "no"


def test_without_scored_rows_or_without_intervals_nothing_can_be_told() -> None:
    nowhere = verdict_of(result(test=None, validation=None))
    assert (nowhere.answer, "no rows to score on" in nowhere.sentence) == ("cannot be told", True)
    bare = result(validation=None)
    assert bare.test is not None
    verdict = verdict_of(bare.model_copy(update={"test": bare.test.model_copy(update={"gains": ()})}))
    assert verdict.answer == "cannot be told"
    assert "no interval compares it" in verdict.sentence


def test_caveats_name_optimism_earlier_looks_missing_and_late_members_and_a_missed_gate() -> None:
    gate = GateResult(
        passed=False,
        reason="accuracy is 0.9, below 0.95",
        metric="accuracy",
        of="ensemble",
        on="test",
        value=0.9,
        min=0.95,
        max=None,
    )
    told = " ".join(verdict_of(result(missing=(3, 4), late=(2,), gate=gate)).caveats)
    for words in (
        "would look 0.80 points better: that difference is optimism",
        "3 other runs with 24 members and 40 trials looked at the same rows",
        "2 of 5 members are missing",
        "1 member was cut short at the deadline",
        "The quality gate is missed: accuracy is 0.9, below 0.95.",
    ):
        assert words in told


def test_nothing_to_warn_of_is_no_caveat() -> None:
    quiet = result(runs_before=RunsBefore(runs=0, members=0))
    assert quiet.validation is not None
    weighted: Figure | None = quiet.validation.weighted
    assert weighted is not None
    plain = quiet.validation.model_copy(update={"weighted": weighted.model_copy(update={"optimism": {}})})
    assert verdict_of(quiet.model_copy(update={"validation": plain})).caveats == ()


@pytest.mark.parametrize(
    ("metric", "value", "score", "difference"),
    [
        ("accuracy", 0.9583, "95.83 %", "+95.83 points"),
        ("nll", 0.16009, "0.1601", "+0.1601"),
        ("rmse", -15.5, "−15.50", "−15.50"),
    ],
)
def test_shares_are_told_in_per_cent_and_points(metric: str, value: float, score: str, difference: str) -> None:
    assert (score_text(metric, value), gain_text(metric, value)) == (score, difference)
    assert score_text(metric, None) == "–"


def test_no_difference_at_all_needs_no_interval() -> None:
    assert compared("nll", 0.0, 0.0, 0.0) == "as good as"
    assert compared("nll", 0.0, -0.1, 0.1) == "as good (95 % interval −0.1000 to +0.1000) as"
