"""Every scenario really runs, small, over the processes it is run over in earnest."""

import msgspec
import pytest

from bench import report, targets
from bench.figures import FIGURES
from bench.jobs import Flood, Idle, Paced
from bench.load import perform
from bench.processes import BenchError, ready_port, running
from bench.scenarios import Bench, Scale

TINY = Scale(
    repetitions=1, ttft_rounds=5, flood_tokens=500, flood_rounds=1, requests=16, starts_per_second=1000, window=0.1
)

TTFT = ["ttft_p50", "ttft_p99", "ttft_thinking_p50", "ttft_thinking_p99"]


def asked(upstream, model):
    return msgspec.structs.replace(upstream, body=targets.openai_body(model))


def test_the_bare_pipeline_gives_figures_without_a_service(cores, upstream, bare):
    bench = Bench(cores, TINY, upstream, (), (bare,))
    result = report.result([*bench.ttft(), *bench.flood(), *bench.requests()], quick=True, commit="none")
    rows = {row.figure: row for row in result.rows}
    assert list(rows) == [*TTFT, "flood_32", "flood_256", "cpu_request"]
    assert {"direct", "aiohttp", "bare"} == set(rows["ttft_p50"].ways)
    assert all(row.ways["bare"].median > 0 and row.ratio is None and 0 < row.idle < 1 for row in rows.values())


def test_the_service_is_measured_as_an_operator_starts_it(cores, upstream, bare):
    with targets.service(cores, upstream) as service:
        bench = Bench(cores, TINY, upstream, (), (bare, service))
        result = report.result([*bench.requests(), *bench.ttft()], quick=True, commit="none")
    assert [row.figure for row in result.rows] == [*TTFT, "cpu_request"]
    assert all(row.ratio is not None and row.ratio.median > 0 for row in result.rows)
    assert all(FIGURES[row.figure].title in report.table(result) for row in result.rows)


async def test_paced_counts_what_arrives_in_the_window_and_how_old_it_is(cores, upstream, bare):
    model = "stamped-45-20-20"
    for target in (bare.target(model), None):
        reading = await perform(
            Paced(cores, asked(upstream, model), target, streams=5, ramp=0.1, window=0.2, tokens=45)
        )
        assert 0 < reading.count <= 5 * 45
        assert len(reading.microseconds["token"]) == reading.count
        assert min(reading.microseconds["token"]) > 0


async def test_idle_streams_are_open_and_weigh_something(cores, upstream, bare):
    # So many that they do not fit into what the tests before have left free.
    job = Idle(cores, asked(upstream, "idle"), bare.target("idle"), streams=400)
    reading = await perform(job)
    assert reading.count == 380  # twenty of them came first, as warm-up
    assert reading.kilobytes > 0


async def test_an_answer_of_the_wrong_length_stops_the_bench(cores, upstream, bare):
    job = Flood(cores, asked(upstream, "flood-8"), bare.target("flood-8"), streams=1, rounds=1, tokens=9)
    with pytest.raises(BenchError, match="40 bytes of text instead of 45"):
        await perform(job)


def test_a_process_that_does_not_start_is_named(cores):
    with running(("-c", "print('no')"), cores.load) as process, pytest.raises(BenchError, match="did not start"):
        ready_port(process)
