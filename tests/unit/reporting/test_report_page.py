"""The page: what it tells of each task, and that nothing in it can run, be fetched, be missed or be too large."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.reporting.html.page import render
from orchestrator.reporting.report import ReportData
from tests.support.report_cases import member, report_data, result
from tests.support.report_pages import Page, parse

TASKS = ("multiclass", "binary", "multilabel", "regression")
EVERY = ["figures", "curves", "size", "members", "weights"]
CLASSES = ["calibration", "confusion", "examples", "diversity", "selective"]
LABELS = ["calibration", "examples", "diversity", "selective"]
NUMBERS = ["errors", "examples", "diversity"]
LAST = ["timeline", "notes", "provenance"]
EVIL = "\"'></script><script>alert(1)</script><img src=x onerror=alert(2)>&{{ 7*7 }}$x_1^$]]>-->"


@pytest.fixture(scope="module")
def bodies() -> dict[str, bytes]:
    return {task: render(report_data(task), {}) for task in TASKS}


@pytest.fixture(scope="module")
def pages(bodies: dict[str, bytes]) -> dict[str, Page]:
    return {task: parse(body) for task, body in bodies.items()}


@pytest.mark.parametrize(
    ("task", "middle"),
    [("multiclass", CLASSES), ("binary", CLASSES), ("multilabel", LABELS), ("regression", NUMBERS)],
)
def test_each_task_has_its_sections_in_order(pages: dict[str, Page], task: str, middle: list[str]) -> None:
    assert pages[task].section_ids() == [*EVERY, *middle, *LAST]


@pytest.mark.parametrize("task", TASKS)
def test_the_html_is_well_formed_and_every_id_is_there_once(pages: dict[str, Page], task: str) -> None:
    page = pages[task]
    assert (page.mistakes, page.unclosed) == ([], [])
    ids = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    targets = [address[1:] for address in page.addresses() if address.startswith("#")]
    assert set(targets) <= set(ids)
    assert targets


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_fetched_from_anywhere(bodies: dict[str, bytes], pages: dict[str, Page], task: str) -> None:
    page = pages[task]
    assert {address.split(",")[0].split("#")[0] for address in page.addresses()} <= {"", "data:image/png;base64"}
    assert not page.all("link")
    assert not page.all("iframe")
    body = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "", bodies[task].decode())
    assert not re.findall(r"\w+://|@import|url\((?!#)|[\"'(]//", body)


def test_only_the_reports_own_script_may_run(pages: dict[str, Page]) -> None:
    page = pages["multiclass"]
    [script] = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    [policy] = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    assert page.handlers() == []


def hostile() -> ReportData:
    """Everything that a user may name, named by somebody who wants a script to run."""
    made = result(
        run_id=EVIL,
        notes=(EVIL,),
        versions={EVIL: EVIL},
        artifacts={EVIL: EVIL},
        members=[
            member(0, {}).model_copy(
                update={"message": EVIL, "builder": EVIL, "hyperparameters": {EVIL: EVIL}, "engine": EVIL}
            ),
            member(1, {}),
        ],
    )
    base = report_data()
    assert base.timeline is not None
    assert base.cases is not None
    spans = tuple(span.__class__(**{**vars(span), "worker": EVIL, "outcome": EVIL}) for span in base.timeline.spans)
    timeline = base.timeline.__class__(**{**vars(base.timeline), "spans": spans})
    histories = {0: [{"epoch": n, "loss": 1 / n, EVIL: 0.5, f"val_{EVIL}": 0.4} for n in (1, 2, 3)]}
    return report_data(
        result=made,
        histories=histories,
        timeline=timeline,
        class_names={"": (EVIL,) * 10},
        spec={"job": {"name": EVIL, "seed": EVIL}},
        packs=({"members": [0], "engine": EVIL},),
        packed_because=EVIL,
    )


def test_what_comes_from_users_is_shown_as_text_and_never_becomes_an_element(pages: dict[str, Page]) -> None:
    page, tame = parse(render(hostile(), {})), pages["multiclass"]
    assert (page.mistakes, page.unclosed, page.handlers()) == ([], [], [])
    assert len(page.all("script")) == 1
    assert {each.tag for each in page.elements} <= {each.tag for each in tame.elements}
    [heading] = page.all("h1")
    assert heading.text == EVIL
    for section in ("members", "confusion", "examples", "timeline", "notes", "provenance", "curves"):
        assert "alert(1)" in page.section(section).text, section
    assert all(each.attributes.get("src", "data:").startswith("data:") for each in page.elements)


def test_secrets_of_the_process_are_blotted_out_wherever_they_stand() -> None:
    secret = "tiger&<swordfish"
    told = report_data(
        result=result(notes=(f"wrote with {secret}", "see s3://user:hunter22@host/x")), packed_because=secret
    )
    body = render(told, {"MY_API_TOKEN": secret}).decode()
    assert "swordfish" not in body
    assert "hunter22" not in body
    assert "wrote with ***" in body


@pytest.mark.parametrize(("members", "megabytes"), [(16, 2), (1000, 6)])
def test_the_file_stays_small(members: int, megabytes: int) -> None:
    body = render(report_data(members=members, epochs=30), {})
    assert len(body) < megabytes * 10**6
    page = parse(body)
    assert len(page.section("members").text.split("succeeded")) == members + 1
    assert len(page.all("path")) < 2500


def test_a_bare_result_still_makes_a_page_of_what_there_is() -> None:
    split: dict[str, Any] = {
        name: None if name == "calibration" else () for name in ("gains", "calibration", "curve", "selective")
    }
    made = result(weights=None, runs_before=None, notes=())
    assert made.validation is not None
    bare = made.validation.model_copy(update={**split, "diversity": None, "confusion": None, "recall": None})
    data = ReportData(made.model_copy(update={"validation": bare, "test": None}), spec={}, histories={})
    assert parse(render(data, {})).section_ids() == ["figures", "members", "provenance"]
    nowhere = ReportData(made.model_copy(update={"validation": None, "test": None}), spec={}, histories={})
    assert parse(render(nowhere, {})).section_ids() == ["members", "provenance"]


def test_stacking_has_no_weights_to_show() -> None:
    made = result()
    assert made.weights is not None
    stacked = made.model_copy(update={"weights": made.weights.model_copy(update={"values": (), "method": "stacking"})})
    assert "weights" not in parse(render(report_data(result=stacked), {})).section_ids()


def test_a_diverged_member_and_histories_with_gaps_are_drawn() -> None:
    nan = float("nan")
    histories = {
        0: [{"epoch": 1, "loss": 2.0, "val_loss": 2.1}, {"epoch": 2, "loss": 1e30, "val_loss": nan}],
        1: [{"epoch": 1, "loss": 1.0}],
        2: [],
    }
    page = parse(render(report_data(members=3, histories=histories), {}))
    assert "curves" in page.section_ids()
    assert "NaN" not in "".join(each.attributes.get("d", "") for each in page.all("path"))


def test_headings_pictures_charts_and_tables_can_be_read_aloud(pages: dict[str, Page]) -> None:
    page = pages["multiclass"]
    levels = [int(each.tag[1]) for each in page.elements if re.fullmatch(r"h[1-6]", each.tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in pairwise(levels))
    charts = [each for each in page.all("svg") if each.attributes["class"] == "chart"]
    assert len(charts) >= 8
    assert all(each.attributes["role"] == "img" and len(each.attributes["aria-label"]) > 10 for each in charts)
    assert all(each.attributes["aria-hidden"] == "true" for each in page.all("svg") if each not in charts)
    assert page.all("img")
    assert all(each.attributes["alt"] for each in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 4
    assert {each.attributes["scope"] for each in page.all("th")} == {"col", "row"}
    assert page.all("html")[0].attributes["lang"] == "en"


def test_charts_take_every_colour_from_the_page(pages: dict[str, Page]) -> None:
    for page in pages.values():
        styles = [each.attributes.get("style", "") for each in page.elements if "svg" in each.parents]
        assert not [style for style in styles if re.search(r"#[0-9a-f]{3,6}", style)]
        assert any("var(--c1)" in style for style in styles)
        assert not [style for style in styles if "font-family" in style or re.search(r"font:", style)]


def palette() -> dict[str, tuple[str, str]]:
    """Each colour of the page: light and dark."""
    css = files("orchestrator.reporting.html").joinpath("report.css").read_text(encoding="utf-8")
    found = re.findall(r"--(\w+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", css)
    return {name: (light, dark) for name, light, dark in found}


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(share: float, color: str, ground: str) -> str:
    values = [round(share * int(color[n : n + 2], 16) + (1 - share) * int(ground[n : n + 2], 16)) for n in (1, 3, 5)]
    return "#" + "".join(f"{value:02x}" for value in values)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_contrast_in_both_themes(theme: int) -> None:
    colors = {name: pair[theme] for name, pair in palette().items()}
    for text in ("ink", "muted", "accent", "good", "fair", "bad"):
        for ground in ("card", "page"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for line in (f"c{n}" for n in range(1, 9)):
        assert contrast(colors[line], colors["card"]) >= 3, line
    assert contrast(colors["ink"], mixed(0.45, colors["c1"], colors["card"])) >= 4.5  # the hottest cell


def test_equal_runs_give_equal_bytes(bodies: dict[str, bytes]) -> None:
    assert render(report_data("binary"), {}) == bodies["binary"]


def test_the_cost_of_a_step_is_worker_seconds_for_a_hundredth(pages: dict[str, Page]) -> None:
    """Five members in 16.5 busy seconds: 3.3 s each; the second one raises accuracy by 1/60, so 0.01 costs 1.98."""
    assert "16.5 s of worker time for 5 trained members, 3.3 s each" in pages["multiclass"].section("size").text
    assert [each.text for each in pages["multiclass"].all("td") if each.text == "1.98"] == ["1.98"]
