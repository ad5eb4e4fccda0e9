"""Charts, small curves and images as parts of a page."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from orchestrator.reporting.html.curves import learning_charts
from orchestrator.reporting.html.draw import COLORS, draw, sparkline
from orchestrator.reporting.html.png import png_uri
from tests.support.report_cases import report_data
from tests.support.report_pages import parse


def ids(svg: str) -> set[str]:
    return set(re.findall(r' id="([^"]*)"', svg))


def test_two_charts_of_the_same_have_no_id_in_common_and_every_reference_its_target() -> None:
    def paint(axes: object) -> None:
        axes.plot([1, 2], [1, 2], "o-", color=COLORS["c1"])  # type: ignore[attr-defined]

    one, other = draw("one", "a line", paint), draw("other", "a line", paint)
    assert ids(one)
    assert not ids(one) & ids(other)
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', one)) == {
        (name, "") if f'href="#{name}"' in one else ("", name) for name in ids(one)
    }


def test_a_chart_has_its_alternative_text_escaped_and_no_trace_of_a_file() -> None:
    svg = draw("x", 'a "line" <of> two', lambda axes: axes.set_title("<b>$x^2$ & Co</b>"))
    page = parse(svg.encode())
    assert page.elements[0].attributes["aria-label"] == 'a "line" <of> two'
    assert (page.mistakes, page.unclosed, page.all("b")) == ([], [], [])
    assert "<b>$x^2$ & Co</b>" in {each.text for each in page.all("text")}
    for trace in ("xmlns", "<?xml", "DOCTYPE", "metadata", "<style", "font-family", "pt"):
        assert trace not in svg.replace("clip-path", "").replace("opt", "")


def test_drawing_leaves_the_users_own_settings_of_matplotlib_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw("x", "nothing", lambda axes: None)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("members", "lines"), [(5, 10), (40, 80), (1000, 80)])
def test_no_more_than_forty_members_are_drawn_line_by_line(members: int, lines: int) -> None:
    from orchestrator.reporting.html.curves import history_of

    data = report_data(members=members)
    histories = [history_of(data.result.members[index], rows) for index, rows in data.histories.items()]
    [loss, accuracy] = learning_charts(histories)
    for chart in (loss, accuracy):
        drawn = re.findall(
            r'<path d="M [^"]*L [^"]*" clip-[^>]*style="fill: none; (?:stroke-dash[^"]*; )?stroke: var\(--c\d\)',
            chart.svg,
        )
        assert len(drawn) == lines
        assert ("band" in {key.style for key in chart.keys}) == (members > 40)
        assert len(chart.svg) < 120_000
    assert f"40 of {members} members" in loss.caption or members <= 40


def test_a_small_curve_skips_what_is_not_finite_and_marks_the_best() -> None:
    svg = sparkline([3.0, float("nan"), 1.0, 2.0], mark=2)
    assert 'points="1,1 39.7,15 59,8"' in svg
    assert '<circle cx="39.7" cy="15"' in svg
    assert "circle" not in sparkline([3.0, float("nan"), 1.0], mark=1)
    assert sparkline([3.0], mark=0) == sparkline([float("inf")] * 5, mark=None) == ""


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (7, 5, 3)])
def test_an_image_comes_back_from_its_address_bit_for_bit(shape: tuple[int, ...]) -> None:
    """Read by an independent decoder."""
    from PIL import Image

    image = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    address = png_uri(image)
    head, body = address.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as decoded:
        assert np.array_equal(np.asarray(decoded), image)
