"""Metrics: what a run and an RPC leave behind, in few labels, none of them a tenant's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from agentsvc.domain.errors import Code, Reason
from agentsvc.domain.events import RunState
from agentsvc.domain.messages import Usage
from agentsvc.domain.timeline import AnswerTiming, StageTiming
from agentsvc.telemetry.metrics import Metrics
from agentsvc.telemetry.summary import RunSummary

MS = 1_000_000  # ns
STAGES = (StageTiming("auth", 0, 1000), StageTiming("first_token", 1000, 250_000), StageTiming("look", 0, 9, False))
USAGE = Usage(3, 5)
ANSWERS = (AnswerTiming("openai", "gpt-5", 10 * MS, 260 * MS, 1260 * MS, 11),)


def summary(
    provider: str = "openai",
    model: str = "gpt-5",
    state: RunState = RunState.COMPLETED,
    reason: Reason | None = None,
    ttft_us: int | None = 251_000,
    answers: tuple[AnswerTiming, ...] = ANSWERS,
    usage: Usage = USAGE,
) -> RunSummary:
    return RunSummary(
        "run_1", "acme", "demo", "session_1", provider, model, state, reason, ttft_us, 1_300_000, 2_000, usage,
        STAGES, answers,
    )  # fmt: skip


@pytest.fixture
def metrics() -> Metrics:
    return Metrics({"openai", "mock"}, {"gpt-5"})


def text(metrics: Metrics, accept: str = "") -> str:
    families, _ = metrics.render(accept)
    return b"".join(families).decode()


def scraped(metrics: Metrics) -> dict[str, float]:
    """Every sample, by its name and labels as they are written."""
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in plain_text(text(metrics))
        for sample in family.samples
    }


def labels(families: Iterable[Metric]) -> set[str]:
    return {name for family in families for sample in family.samples for name in sample.labels}


def test_a_run_leaves_its_times_its_stages_its_tokens_and_its_end(metrics: Metrics) -> None:
    metrics.run_ended(summary())
    found = scraped(metrics)
    chat = ",gen_ai_operation_name=chat,gen_ai_provider_name=openai,gen_ai_request_model=gpt-5"
    agent = ",gen_ai_operation_name=invoke_agent,gen_ai_provider_name=openai,gen_ai_request_model=gpt-5"
    assert {name: found[name] for name in found if "_sum" in name} == pytest.approx(
        {
            "agentsvc_ttft_seconds_sum": 0.251,
            "agentsvc_overhead_seconds_sum": 0.002,
            "agentsvc_stage_seconds_sum,stage=auth": 0.001,
            "agentsvc_stage_seconds_sum,stage=first_token": 0.25,
            f"gen_ai_client_operation_duration_seconds_sum,error_type={chat}": 1.25,
            f"gen_ai_client_time_to_first_chunk_seconds_sum{chat}": 0.25,
            f"gen_ai_client_time_per_output_chunk_seconds_sum{chat}": 0.1,
            f"gen_ai_client_token_usage_sum{agent},gen_ai_token_type=input": 3,
            f"gen_ai_client_token_usage_sum{agent},gen_ai_token_type=output": 5,
        }
    )
    assert found["agentsvc_runs_total,provider=openai,reason=,state=completed"] == 1


def test_a_run_that_never_answered_has_no_time_to_first_token(metrics: Metrics) -> None:
    failed = AnswerTiming("openai", "gpt-5", 0, 0, 5 * MS, 1, "PROVIDER_AUTH")
    metrics.run_ended(
        summary(state=RunState.FAILED, reason=Reason.PROVIDER_AUTH, ttft_us=None, answers=(failed,), usage=Usage())
    )
    found = scraped(metrics)
    assert found["agentsvc_runs_total,provider=openai,reason=PROVIDER_AUTH,state=failed"] == 1
    assert found["agentsvc_ttft_seconds_count"] == 0
    assert not [name for name in found if "first_chunk" in name or "token_usage" in name or "stage" in name]
    assert [name for name in found if "operation_duration" in name and "error_type=PROVIDER_AUTH" in name]


def test_each_call_of_a_model_counts(metrics: Metrics) -> None:
    metrics.run_ended(summary(answers=ANSWERS * 3))
    assert [v for name, v in scraped(metrics).items() if "first_chunk_seconds_count" in name] == [3]


def test_names_that_the_operator_does_not_know_are_one_label(metrics: Metrics) -> None:
    for number in range(500):
        mine = f"ft:gpt-5:acme-corp:{number}"
        metrics.run_ended(summary(f"p{number}", mine, answers=(AnswerTiming(f"p{number}", mine, 0, 1, 2, 3),)))
    written = text(metrics)
    assert "acme" not in written
    assert written.count("\n") < 200
    assert scraped(metrics)["agentsvc_runs_total,provider=other,reason=,state=completed"] == 500


def test_no_label_names_a_tenant_or_a_user(metrics: Metrics) -> None:
    metrics.run_ended(summary())
    metrics.rpc_ended("agentsvc.v1.AgentService/Chat", Code.OK, 0.3)
    assert labels(plain_text(text(metrics))) == {
        "le", "stage", "state", "reason", "provider", "rpc_method", "rpc_grpc_status_code", "error_type",
        "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type",
    }  # fmt: skip


def test_an_rpc_counts_by_method_and_status(metrics: Metrics) -> None:
    metrics.rpc_ended("agentsvc.v1.AgentService/Chat", Code.NOT_FOUND, 0.3)
    name = "rpc_server_call_duration_seconds_sum,rpc_grpc_status_code=5,rpc_method=agentsvc.v1.AgentService/Chat"
    assert scraped(metrics)[name] == pytest.approx(0.3)


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "text/plain;version=0.0.4", ""])
def test_it_is_written_as_the_scraper_asks(metrics: Metrics, accept: str) -> None:
    metrics.run_ended(summary())
    metrics.gauge("agentsvc_things", "Things.", lambda: 7)
    metrics.counter("agentsvc_turns", "Turns.", lambda: {("left",): 1}, ("way",))
    _, content_type = metrics.render(accept)
    written = text(metrics, accept)
    asked_for_open = accept.startswith("application/openmetrics")
    assert content_type.startswith("application/openmetrics-text" if asked_for_open else "text/plain")
    samples = {s.name: s.value for f in (open_metrics if asked_for_open else plain_text)(written) for s in f.samples}
    assert (samples["agentsvc_things"], samples["agentsvc_turns_total"]) == (7, 1)
    assert samples["agentsvc_ttft_seconds_count"] == 1
    assert written.endswith("# EOF\n") is asked_for_open


def test_a_run_costs_microseconds(metrics: Metrics) -> None:
    """Measured 6 us, of which Prometheus' own client would make 60; the bound is for a machine that is busy."""
    ended = summary()
    best = min(_seconds(lambda: metrics.run_ended(ended)) for _ in range(20))
    assert best < 60e-6


def _seconds(observe: Callable[[], None], times: int = 200) -> float:
    began = perf_counter()
    for _ in range(times):
        observe()
    return (perf_counter() - began) / times
