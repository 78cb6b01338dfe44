"""From samples to verdicts: what counts, what does not, and what is a regression."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import msgspec
import pytest

from bench import report
from bench.chart import chart
from bench.compare import compare
from bench.figures import FIGURES
from bench.processes import Usage
from bench.report import Result, Sample, verdict


def usage(idle=0.6, foreign=0.0):
    return Usage(seconds=1.0, tested_cpu=0.9, idle=idle, foreign=foreign)


def samples(figure, service, idle=0.6, bare=100.0):
    return [Sample(figure, {"bare": bare, "service": value}, [usage(idle), usage()]) for value in service]


def result(*groups):
    return report.result([sample for group in groups for sample in group], quick=False, commit="abc")


def test_a_ratio_is_taken_inside_each_repetition():
    pairs = [(100.0, 150.0), (200.0, 220.0), (50.0, 100.0)]
    [row] = result([Sample("ttft_p50", {"bare": b, "service": s}, [usage()]) for b, s in pairs]).rows
    assert (row.ratio.median, row.ratio.min, row.ratio.max) == (1.5, 1.1, 2.0)
    assert row.ways["bare"].median == 100.0


@pytest.mark.parametrize(
    ("figure", "service", "reached"),
    [
        ("ttft_p50", 109.0, "aim"),
        ("ttft_p50", 130.0, "must"),
        ("ttft_p50", 131.0, "missed"),
        ("flood_32", 101.0, "aim"),
        ("flood_32", 80.0, "must"),
        ("flood_32", 79.0, "missed"),
        ("latency_300", 9.9, "must"),
        ("latency_300", 10.1, "missed"),
        ("latency_450", 9.9, "aim"),
        ("latency_450", 10.1, "not yet"),
    ],
)
def test_the_verdict_names_the_bound_that_was_reached(figure, service, reached):
    [row] = result(samples(figure, [service])).rows
    assert verdict(FIGURES[figure], row) == reached


def test_less_idle_than_thirty_percent_in_any_reading_makes_a_figure_invalid():
    outcome = result([*samples("ttft_p50", [100.0]), *samples("ttft_p50", [100.0], idle=0.29)])
    [row] = outcome.rows
    assert not row.valid
    assert verdict(FIGURES["ttft_p50"], row) == ""
    assert "INVALID" in report.table(outcome)


def test_strangers_on_a_core_make_a_figure_invalid():
    values = {"bare": 100.0, "service": 100.0}
    [calm] = result([Sample("ttft_p50", values, [usage(foreign=0.25)])]).rows
    [disturbed] = result([Sample("ttft_p50", values, [usage(foreign=0.25), usage(foreign=0.26)])]).rows
    assert calm.valid
    assert not disturbed.valid


def test_a_result_survives_json_and_shows_every_figure():
    whole = result(*(samples(name, [120.0, 130.0]) for name in FIGURES))
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Result) == whole
    assert [row.figure for row in whole.rows] == list(FIGURES)
    assert all(figure.title in report.page(whole) for figure in FIGURES.values())


def test_the_chart_is_svg_with_a_bar_per_ratio_however_long():
    drawn = ET.fromstring(chart(result(samples("ttft_p50", [120.0]), samples("latency_300", [9000.0]))))
    rectangles = drawn.findall("{http://www.w3.org/2000/svg}rect")
    assert len(rectangles) == 2
    assert all(float(r.get("x")) + float(r.get("width")) < 930 for r in rectangles)


def test_the_chart_leaves_out_what_has_no_ratio():
    drawn = ET.fromstring(chart(result([Sample("ttft_p50", {"bare": 100.0}, [usage()])])))
    assert not drawn.findall("{http://www.w3.org/2000/svg}rect")


@pytest.mark.parametrize(
    ("figure", "stored", "new", "passes"),
    [
        ("cpu_token", [120.0], 132.0, True),  # ten per cent worse
        ("cpu_token", [120.0], 132.1, False),
        ("cpu_token", [110.0, 120.0, 140.0], 139.0, True),  # inside the stored spread
        ("cpu_token", [120.0], 60.0, True),
        ("flood_32", [100.0], 90.0, True),
        ("flood_32", [100.0], 89.9, False),
        ("flood_32", [80.0, 100.0, 110.0], 81.0, True),
        ("flood_32", [100.0], 200.0, True),
    ],
)
def test_worse_is_more_than_ten_percent_and_beyond_the_stored_spread(figure, stored, new, passes):
    complaints = compare(result(samples(figure, stored)), result(samples(figure, [new])))
    assert (complaints == []) is passes
    assert all(FIGURES[figure].title in complaint for complaint in complaints)


def test_what_cannot_be_judged_any_more_fails_too():
    stored = result(samples("cpu_token", [120.0]), samples("memory", [120.0]))
    new = result(samples("cpu_token", [120.0], idle=0.1))
    assert len(compare(stored, new)) == 2


def test_what_the_stored_run_could_not_say_counts_for_nothing():
    stored = result(samples("cpu_token", [120.0], idle=0.1))
    assert compare(stored, result(samples("memory", [900.0]))) == []


def test_bounds_that_are_absent_are_met_by_nothing():
    unbounded = replace(FIGURES["memory"], must=None, aim=None)
    [row] = result(samples("memory", [100.0])).rows
    assert verdict(unbounded, row) == "not yet"
