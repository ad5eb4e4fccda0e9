"""The page of a comparison: what it shows, and that nothing in it can run, be fetched or be a secret."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.reporting.compare import Comparison, Differing, Pair, RunGain
from orchestrator.reporting.html.compare import render_comparison
from orchestrator.reporting.scores import SplitName
from tests.support.report_cases import result
from tests.support.report_pages import Page, parse

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}$x_1^$"


def gains(value: float, metrics: tuple[str, ...] = ("accuracy", "nll")) -> tuple[RunGain, ...]:
    splits: tuple[SplitName, ...] = ("test", "validation")
    return tuple(RunGain(split, metric, value, value - 0.01, value + 0.01) for split in splits for metric in metrics)


def comparison(**changes: Any) -> Comparison:
    """Run B is clearly better than A; of C nothing can be told."""
    fields: dict[str, Any] = {
        "results": {name: result(run_id=f"digits-{name}") for name in "ABC"},
        "spec": (Differing("train.epochs", ("5", "10", "20")),),
        "origins": (Differing("code digest", ("1" * 64, "1" * 64, "8" * 64)),),
        "pairs": (Pair("B", gains(0.03), {}), Pair("C", (), {"test": "their data differ", "validation": "C has none"})),
        "notes": ("A: something to keep in mind",),
    }
    return Comparison(**{**fields, **changes})


@pytest.fixture(scope="module")
def page() -> Page:
    return parse(render_comparison(comparison(), {}))


def test_the_page_has_its_sections_is_well_formed_and_its_links_lead_somewhere(page: Page) -> None:
    assert page.section_ids() == ["runs", "figures", "gains", "differences"]
    assert (page.mistakes, page.unclosed) == ([], [])
    ids = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    assert {address.split("#")[0] for address in page.addresses()} == {""}
    assert {address[1:] for address in page.addresses()} <= set(ids)
    assert (len(page.all("script")), page.handlers()) == (1, [])


def test_the_answers_come_first_and_say_what_they_rest_on(page: Page) -> None:
    [verdict] = [each for each in page.all("section") if "verdict" in each.attributes.get("class", "")]
    assert "Of 2, 1 clearly better than A, 1 cannot be told." in verdict.text
    assert "B is clearly better than A. On test (361 rows)" in verdict.text
    assert "on test their data differ; on validation C has none" in verdict.text
    assert "something to keep in mind" in verdict.text
    assert verdict.attributes["class"] == "verdict clearly"


def test_figures_gains_and_differences_stand_in_tables_and_charts(page: Page) -> None:
    charts = [each for each in page.all("svg") if each.attributes["class"] == "chart"]
    assert len(charts) == 4
    assert "gains in accuracy over A on test: B +3.00 points" in charts[0].attributes["aria-label"]
    assert "B over A" in page.section("gains").text
    assert "+2.00 to +4.00 points" in page.section("gains").text
    assert "train.epochs51020" in page.section("differences").text.replace("\n", "")
    assert "888888888888" in page.section("differences").text
    assert "8" * 13 not in page.section("differences").text
    assert all(f"digits-{name}" in page.section("runs").text for name in "ABC")


def test_a_single_pair_is_answered_in_its_own_words() -> None:
    results = {name: result(run_id=f"digits-{name}") for name in "AB"}
    even = tuple(RunGain("test", metric, 0.0, 0.0, 0.0) for metric in ("accuracy", "nll"))
    page = parse(render_comparison(comparison(results=results, pairs=(Pair("B", even, {}),), spec=(), origins=()), {}))
    [heading] = page.all("h1")
    assert heading.text == "digits-A and digits-B"
    assert page.all("h2")[0].text == "Which run is better? B and A are equally good."
    assert "the same in all of them" in page.section("differences").text


def test_a_regression_is_drawn_by_its_errors() -> None:
    results = {name: result("regression", run_id=f"digits-{name}") for name in "AB"}
    pair = Pair("B", gains(0.2, ("rmse", "mae")), {})
    page = parse(render_comparison(comparison(results=results, pairs=(pair,), spec=(), origins=()), {}))
    labels = [each.attributes["aria-label"] for each in page.all("svg") if each.attributes["class"] == "chart"]
    assert [label.split(" over")[0] for label in labels] == ["gains in RMSE", "gains in mean absolute error"] * 2


def test_what_comes_from_users_is_shown_as_text_and_secrets_are_blotted_out(page: Page) -> None:
    results = {name: result(run_id=f"{EVIL}{name}") for name in "ABC"}
    told = comparison(
        results=results,
        spec=(Differing(EVIL, (EVIL, "tiger&swordfish", EVIL)),),
        pairs=(Pair("B", gains(0.03), {}, (EVIL,)), Pair("C", (), {"test": EVIL})),
        notes=(EVIL,),
    )
    body = render_comparison(told, {"MY_API_TOKEN": "tiger&swordfish"})
    found = parse(body)
    assert (found.mistakes, found.unclosed, found.handlers()) == ([], [], [])
    assert len(found.all("script")) == 1
    assert {each.tag for each in found.elements} <= {each.tag for each in page.elements}
    for section in ("runs", "gains", "differences"):
        assert "alert(1)" in found.section(section).text, section
    assert b"swordfish" not in body


def test_equal_comparisons_give_equal_bytes() -> None:
    assert render_comparison(comparison(), {}) == render_comparison(comparison(), {})
