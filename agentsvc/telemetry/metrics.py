"""What Prometheus is told. Fed once per ended run and once per ended RPC, never per token; everything else is read on demand.

No label names a tenant, a user, a session or an agent. Model names are chosen by tenants (a fine-tuned one may carry its
owner's name), so only those that the operator knows are labels; the others count as ``other``.

    agentsvc_ttft_seconds, agentsvc_overhead_seconds, agentsvc_stage_seconds{stage}    the time explained, per run
    agentsvc_runs_total{state, reason, provider}                                       per run
    gen_ai_client_operation_duration_seconds, .._time_to_first_chunk_seconds,
    .._time_per_output_chunk_seconds, .._token_usage{gen_ai_token_type}                OpenTelemetry's GenAI conventions
    rpc_server_call_duration_seconds{rpc_method, rpc_grpc_status_code}                 OpenTelemetry's RPC conventions
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agentsvc.domain.errors import Code
from agentsvc.domain.timeline import AnswerTiming
from agentsvc.telemetry.series import (
    MODEL_SECONDS,
    OWN_SECONDS,
    RPC_SECONDS,
    TOKENS,
    Histogram,
    Reading,
    Readings,
    Tally,
)
from agentsvc.telemetry.summary import RunSummary

OTHER: Final = "other"
_CHAT: Final = "chat"  # gen_ai.operation.name of one call of a model
_ASKED = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class Metrics:
    """One registry and what feeds it. ``providers`` and ``models`` are the names that may become labels.

    Not thread-safe: fed and rendered on the event loop.
    """

    def __init__(self, providers: Collection[str] = (), models: Collection[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self.catch_up: Callable[[], None] = _up_to_date  # called before every exposition
        ProcessCollector(registry=self.registry)
        self._providers = frozenset(providers)
        self._models = frozenset(models)
        self._ttft = self._histogram("agentsvc_ttft_seconds", "A call's way to its first token.", OWN_SECONDS).of()
        self._overhead = self._histogram(
            "agentsvc_overhead_seconds", "A run's time that was neither the provider's nor a tool's.", OWN_SECONDS
        ).of()
        self._stages = self._histogram("agentsvc_stage_seconds", "The critical stages of TTFT.", OWN_SECONDS, "stage")
        self._runs = Tally("agentsvc_runs", "Ended runs.", ("state", "reason", "provider"))
        self.registry.register(self._runs)
        self._operation = self._histogram(
            "gen_ai_client_operation_duration_seconds", "One call of a model.", MODEL_SECONDS, *_ASKED, "error_type"
        )
        self._first_chunk = self._histogram(
            "gen_ai_client_time_to_first_chunk_seconds", "From asking to the first chunk.", MODEL_SECONDS, *_ASKED
        )
        self._per_chunk = self._histogram(
            "gen_ai_client_time_per_output_chunk_seconds",
            "Between two chunks: the mean of one call, so that a call counts once however long it is.",
            OWN_SECONDS,
            *_ASKED,
        )
        self._tokens = self._histogram(
            "gen_ai_client_token_usage", "Tokens of a run, all of its steps.", TOKENS, *_ASKED, "gen_ai_token_type"
        )
        self._rpcs = self._histogram(
            "rpc_server_call_duration_seconds", "One RPC.", RPC_SECONDS, "rpc_method", "rpc_grpc_status_code"
        )

    def run_ended(self, summary: RunSummary) -> None:
        """A run ended."""
        provider = self._provider(summary.provider)
        self._runs.count(summary.state, summary.reason or "", provider)
        self._overhead.observe(summary.overhead_us * 1e-6)
        if summary.ttft_us is not None:
            self._ttft.observe(summary.ttft_us * 1e-6)
            for stage in summary.stages:
                if stage.critical:
                    self._stages.of(stage.stage).observe(stage.duration_us * 1e-6)
        for answer in summary.answers:
            self._answered(answer)
        usage = summary.usage
        if usage.total_tokens:
            asked = "invoke_agent", provider, self._model(summary.model)
            self._tokens.of(*asked, "input").observe(usage.input_tokens)
            self._tokens.of(*asked, "output").observe(usage.output_tokens)

    def rpc_ended(self, method: str, code: Code, seconds: float) -> None:
        """An RPC ended. ``method`` is one of the contract's full names, as ``agentsvc.v1.AgentService/Chat``, or ``other``."""
        self._rpcs.of(method, str(int(code))).observe(seconds)

    def gauge(self, name: str, documentation: str, read: Reading, labels: Sequence[str] = ()) -> None:
        """``read()`` is called for each scrape, on the event loop: a number, or one per tuple of label values."""
        self.registry.register(Readings(GaugeMetricFamily, name, documentation, read, labels))

    def counter(self, name: str, documentation: str, read: Reading, labels: Sequence[str] = ()) -> None:
        """As ``gauge``, for what only grows. ``name`` without its ``_total``."""
        self.registry.register(Readings(CounterMetricFamily, name, documentation, read, labels))

    def render(self, accept: str = "") -> tuple[Iterator[bytes], str]:
        """The exposition, a family at a time, and its content type by the scraper's ``Accept`` header.

        A family takes about a millisecond to write: who renders on the event loop lets others have it in between.
        """
        self.catch_up()
        encode, content_type = choose_encoder(accept)
        whole = b"# EOF\n" if content_type.startswith("application/openmetrics") else b""

        def families() -> Iterator[bytes]:
            for family in self.registry.collect():
                yield encode(_One(family)).removesuffix(b"# EOF\n")
            yield whole

        return families(), content_type

    def _histogram(self, name: str, documentation: str, bounds: Sequence[float], *labels: str) -> Histogram:
        histogram = Histogram(name, documentation, bounds, labels)
        self.registry.register(histogram)
        return histogram

    def _answered(self, answer: AnswerTiming) -> None:
        asked = _CHAT, self._provider(answer.provider), self._model(answer.model)
        self._operation.of(*asked, answer.failure).observe((answer.last_ns - answer.asked_ns) * 1e-9)
        if answer.first_ns:
            self._first_chunk.of(*asked).observe((answer.first_ns - answer.asked_ns) * 1e-9)
            if answer.chunks > 1:
                mean = (answer.last_ns - answer.first_ns) / (answer.chunks - 1)
                self._per_chunk.of(*asked).observe(mean * 1e-9)

    def _provider(self, name: str) -> str:
        return name if name in self._providers else OTHER

    def _model(self, name: str) -> str:
        return name if name in self._models else OTHER


def _up_to_date() -> None:
    """Nothing waits to be told."""


class _One(Collector):
    """One family that is collected already."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """That family."""
        return (self._family,)
