"""The pages and the trackers of models with several outputs: each output has its part, and nothing is there twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from output_examples import NUM_MEMBERS, TASKS, birds, birds_run, result_in
from run_examples import LAYOUT, finished_run

from orchestrator.planning.outputs import output_of
from orchestrator.reporting.compare import Comparison, compare_runs
from orchestrator.reporting.compare_text import comparison_json, comparison_text, judge_pair, scored_on
from orchestrator.reporting.experiment import read_experiment
from orchestrator.reporting.html.compare import render_comparison
from orchestrator.reporting.html.curves import history_of, learning_charts
from orchestrator.reporting.html.page import render
from orchestrator.reporting.report import collect
from orchestrator.reporting.verdict import caveats_of, verdict_of
from orchestrator.storage.layout import RunLayout
from orchestrator.testing import MemoryStore
from tests.support.report_cases import member
from tests.support.report_pages import Page, parse

NAMES = {"species": ["Adelie", "Chinstrap", "Gentoo"]}
A, B, C = (RunLayout("birds", f"run-{name}") for name in "abc")


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    made = MemoryStore()
    birds_run(
        made,
        ensemble={"combine": "weighted", "weights": "nll", "calibrate": True},
        data={"source": "jobs.birds:load", "class_names": NAMES},
    )
    return made


@pytest.fixture(scope="module")
def page(store: MemoryStore) -> Page:
    return parse(render(collect(store, LAYOUT, result_in(store)), {}))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """B weighs its members, C tells only one of the outputs of A and B."""
    made = MemoryStore()
    labels, members = birds()
    birds_run(made, layout=A, run_id="a")
    birds_run(made, layout=B, run_id="b", ensemble={"combine": "weighted", "weights": "nll"})
    finished_run(
        made,
        {part: truth for part, truth in labels.items() if output_of(part) == "mass"},
        [{part: told for part, told in own.items() if output_of(part) == "mass"} for own in members],
        C,
        run_id="c",
        facts={"tasks": {"mass": TASKS["mass"]}},
    )
    return compare_runs(made, [A, B, C])


def test_each_output_has_its_own_part_of_the_report(page: Page) -> None:
    shared = ["figures", "size", "weights"]
    species = [*shared, "calibration", "confusion", "diversity", "selective"]
    mass = [*shared, "errors", "diversity"]
    parts = [f"{name}-{place}" for place, own in enumerate((species, mass)) for name in ("output", *own)]
    found = [name for name in page.section_ids() if name.rpartition("-")[2] in ("0", "1")]
    assert found == parts
    assert page.section_ids()[len(parts) :][0] == "curves"
    assert "Adelie" in page.section("confusion-0").text
    assert "RMSE" in page.section("figures-1").text
    assert "Was the ensemble worth it?" in page.section("output-1").text


def test_every_id_is_there_once_and_the_list_of_sections_names_outputs_and_what_is_of_the_run(page: Page) -> None:
    assert (page.mistakes, page.unclosed) == ([], [])
    ids = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    listed = [each.attributes["href"][1:] for each in page.all("a") if "nav" in each.parents]
    assert listed[:3] == ["output-0", "output-1", "curves"]
    assert set(listed) <= set(ids)


def test_the_table_of_members_has_their_scores_and_weights_in_each_output(page: Page) -> None:
    headings = [each.text for each in page.all("th")]
    for heading in ("validation accuracy for species", "test rmse for mass", "weight for species", "weight for mass"):
        assert heading in headings


def test_the_verdict_is_of_the_output_that_decides_and_those_of_the_others_are_told(store: MemoryStore) -> None:
    verdict = verdict_of(result_in(store))
    assert verdict.title.startswith("species: ")
    assert "the weighted ensemble for species has an accuracy of" in verdict.sentence
    [mass] = [line for line in verdict.caveats if line.startswith("mass: ")]
    assert "than the single member that is best for species (member 1)" in mass
    assert len(verdict.caveats) == len(set(verdict.caveats))


def test_other_runs_on_the_same_rows_are_told_of_after_what_is_of_single_outputs() -> None:
    made = MemoryStore()
    asked = {"combine": "weighted", "weights": "nll"}
    birds_run(made, ensemble=asked, facts={"runs_before": {"runs": 2, "members": 8}})
    caveats = caveats_of(result_in(made))
    assert ["optimism" in line for line in caveats] == [True, False], "by weights for mass, the second output"
    assert "looked at the same rows" in caveats[1]


def test_learning_curves_show_the_metric_of_each_output() -> None:
    rows = [
        {"epoch": n, "loss": 1 / n, "species_accuracy": 0.5, "val_species_accuracy": 0.4, "mass_mae": 2 / n}
        for n in (1, 2)
    ]
    charts = learning_charts([history_of(member(0, {}), rows)], ("species", "mass"))
    told = [chart.caption.split()[2] for chart in charts]
    assert told == ["loss", "species_accuracy", "mass_mae"]


def test_learning_curves_of_an_output_without_a_metric_show_its_loss_and_never_those_of_another() -> None:
    rows = [{"epoch": 1, "loss": 1.0, "mass_loss": 0.5, "val_mass_loss": 0.6, "mass_of_egg_mae": 2.0}]
    charts = learning_charts([history_of(member(0, {}), rows)], ("mass", "mass_of_egg"))
    assert [chart.caption.split()[2] for chart in charts] == ["loss", "mass_loss", "mass_of_egg_mae"]


def test_trackers_are_told_of_figures_by_output(store: MemoryStore) -> None:
    result, experiment = result_in(store), read_experiment(store, LAYOUT, result_in(store))
    figure = result.scores("test")["mass"].ensemble
    assert experiment.scores("ensemble")["test/mass/rmse"] == figure.rmse
    assert experiment.scores("ensemble")["test/mass/rmse_low"] == figure.intervals["rmse"].low
    assert "validation/species_by_size/accuracy" in {name for _, told in experiment.curve() for name in told}
    for trace in experiment.members:
        assert {"validation/species/accuracy", "test/mass/mae"} <= trace.scores().keys()
    assert len(experiment.members) == NUM_MEMBERS


def test_runs_are_compared_in_each_output_that_both_have(comparison: Comparison) -> None:
    pairs: dict[Any, Any] = {(pair.name, pair.output): pair for pair in comparison.pairs}
    assert list(pairs) == [("B", "species"), ("B", "mass"), ("C", "mass")]
    for (name, output), pair in pairs.items():
        metric = "accuracy" if output == "species" else "rmse"
        by_split = {gain.split: gain.gain for gain in pair.gains if gain.metric == metric}
        own = comparison.results[name].scores("test")[output]
        theirs = comparison.results["A"].scores("test")[output].ensemble
        figure = own.weighted if name == "B" else own.ensemble
        sign = 1 if metric == "accuracy" else -1
        assert by_split["test"] == pytest.approx(sign * (getattr(figure, metric) - getattr(theirs, metric)), abs=1e-12)
        assert judge_pair(comparison, pair).title.endswith(f" for {output}.")


def test_a_comparison_is_told_by_output(comparison: Comparison) -> None:
    text, told = comparison_text(comparison), comparison_json(comparison)
    assert "B for mass" in text
    assert told["runs"][0]["test"].keys() == {"species", "mass"}
    assert [pair["output"] for pair in told["pairs"]] == ["species", "mass", "mass"]
    shown = parse(render_comparison(comparison, {}))
    ids = [each.attributes["id"] for each in shown.elements if "id" in each.attributes]
    assert (shown.mistakes, len(ids)) == ([], len(set(ids)))
    assert "On test for mass" in shown.section("figures").text
    assert "Gains on validation for species" in shown.section("gains").text


def test_a_comparison_says_of_which_outputs_rows_fitted_something_more() -> None:
    made = MemoryStore()
    for layout, calibrate in ((A, False), (B, True)):
        birds_run(made, layout=layout, run_id=layout.run_key[-1], ensemble={"calibrate": calibrate})
    lines = [line for line in scored_on(compare_runs(made, [A, B])) if "validation" in line]
    assert [line.partition(": scored on")[0] for line in lines] == ["A for species", "A, B for mass", "B for species"]
    assert ["temperature" in line for line in lines] == [False, False, True]


def test_runs_without_a_common_output_are_not_compared() -> None:
    made, labels = MemoryStore(), {"test": np.arange(30) % 3}
    birds_run(made, layout=A, run_id="a")
    finished_run(made, labels, [{"test": np.full((30, 3), 1 / 3)}] * 2, B, run_id="b")
    [pair] = compare_runs(made, [A, B]).pairs
    assert pair.gains == ()
    assert "no output in common: A has species, mass, B has only one, without a name" in pair.unpaired["test"]
