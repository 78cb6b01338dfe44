"""The log: one line per run, everything as JSON, no secret in it, and nobody waits for it."""

from __future__ import annotations

import io
import json
import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agentsvc.domain.agents import StreamingMode
from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import RunStarted, RunState
from agentsvc.domain.messages import Usage
from agentsvc.domain.runs import Run
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.telemetry import log
from agentsvc.telemetry.log import LogConfig, LogFormat, LogLevel, logging_to
from agentsvc.telemetry.summary import RunSummary

TOKEN = "agentsvc_0123456789abcdef_" + "x" * 43


def written(say, config: LogConfig | None = None) -> list[dict[str, object]]:
    stream = io.StringIO()
    with logging_to(stream, config or LogConfig()):
        say()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def summary(state: RunState = RunState.COMPLETED, error: Error | None = None, *, answered: bool = True) -> RunSummary:
    clock = iter(range(0, 100_000_000, 1_000_000)).__next__  # a millisecond per look
    timeline = Timeline(0, clock)
    timeline.reached(Stage.AUTH)
    if answered:
        timeline.reached(Stage.FIRST_TOKEN)
        timeline.answered = True
    now = datetime.now(UTC)
    run = Run("run_1", "demo", "session_1", state=state, error=error, usage=Usage(3, 5), end_time=now)
    started = RunStarted("run_1", "session_1", "demo", "mock", "mock-demo", StreamingMode.STREAM, False)
    return RunSummary.of("acme", run, started, timeline, timeline.elapsed_us())


def test_a_run_is_one_line_that_says_whose_how_and_how_fast():
    (line,) = written(lambda: log.run_ended(summary()))
    assert line | {"timestamp": ""} == {
        "event": "run ended",
        "level": "info",
        "logger": "agentsvc.runs",
        "timestamp": "",
        "run_id": "run_1",
        "tenant": "acme",
        "agent": "demo",
        "session_id": "session_1",
        "provider": "mock",
        "model": "mock-demo",
        "state": "completed",
        "reason": None,
        "ttft_ms": 1.0,
        "duration_ms": 2.0,
        "overhead_ms": 0.0,
        "input_tokens": 3,
        "output_tokens": 5,
        "usage_estimated": False,
    }


@pytest.mark.parametrize(
    ("pasted", "secret"),
    [
        (TOKEN, "x" * 43),
        ("Bearer hunter22", "hunter22"),
        ("BEARER hunter22", "hunter22"),
        ("https://ann:hunter22@host/v1", "hunter22"),
        *((f"{kind}-hunter2222", "hunter2222") for kind in ("sk", "pk", "gsk", "xai", "key")),
        ("m?api_key=hunter22", "hunter22"),
        ("m?access_token=hunter22", "hunter22"),
    ],
)
def test_a_secret_pasted_where_a_models_name_belongs_is_blotted_out_of_the_runs_line(pasted: str, secret: str):
    (line,) = written(lambda: log.run_ended(replace(summary(), model=pasted)))
    assert secret not in json.dumps(line)
    assert "***" in str(line["model"])


def test_a_failed_run_is_a_warning_with_its_reason_and_no_time_to_a_token_that_never_came():
    failed = summary(RunState.FAILED, Error(Reason.PROVIDER_AUTH, "no"), answered=False)
    (line,) = written(lambda: log.run_ended(failed))
    assert (line["level"], line["reason"], line["ttft_ms"]) == ("warning", "PROVIDER_AUTH", None)


def test_libraries_log_through_it():
    (line,) = written(lambda: logging.getLogger("some.library").warning("lost %d packets", 3))
    assert (line["event"], line["level"], line["logger"]) == ("lost 3 packets", "warning", "some.library")


@pytest.mark.parametrize(
    "secret",
    [
        f"Bearer {TOKEN}",
        f"authorization: Bearer {'y' * 40}",
        TOKEN,
        "postgresql://svc:hunter2@db/x",
        "the key sk-proj-abcdefghijklmnop was refused",
        "https://host/v1?key=AIzaSyAbCdEf&alt=sse",
    ],
)
def test_what_looks_like_a_secret_is_blotted_out_wherever_it_stands(secret: str):
    def say() -> None:
        logging.getLogger("x").error("%s", secret)
        logging.getLogger("x").error("structured", extra={"detail": secret})
        try:
            raise RuntimeError(secret)
        except RuntimeError:
            logging.getLogger("x").exception("it failed")

    lines = written(say)
    assert len(lines) == 3
    assert "Traceback" in str(lines[2]["exception"])
    for told in map(json.dumps, lines):
        assert "***" in told
        for part in ("x" * 43, "y" * 40, "hunter2", "abcdefghijklmnop", "AIzaSyAbCdEf"):
            assert part not in told


@pytest.mark.parametrize("field", ["api_key", "authorization", "secret_key", "password", "token", "dev_token"])
def test_a_field_with_a_secrets_name_is_blotted_out(field: str):
    (line,) = written(lambda: logging.getLogger("x").info("said", extra={field: "plain"}))
    assert line[field] == "***"


def test_token_counts_are_no_secrets():
    (line,) = written(lambda: logging.getLogger("x").info("said", extra={"output_tokens": 7, "token_id": "0123"}))
    assert (line["output_tokens"], line["token_id"]) == (7, "0123")


def test_lines_below_the_level_are_not_written():
    config = LogConfig(LogLevel.WARNING, LogFormat.JSON)
    assert written(lambda: log.run_ended(summary()), config) == []


def test_a_console_reads_lines_and_not_json():
    stream = io.StringIO()
    with logging_to(stream, LogConfig(format=LogFormat.CONSOLE)):
        log.run_ended(summary())
    assert "run ended" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_nobody_waits_for_a_reader_that_does_not_read():
    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            reading.wait()
            return super().write(text)

    reading = threading.Event()
    stream = Stuck()
    with logging_to(stream, LogConfig(format=LogFormat.JSON)):
        for number in range(10_050):  # more than the queue holds: none of these calls may block
            logging.getLogger("x").warning("line %d", number)
        reading.set()
    lines = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert lines[0] == "line 0"
    assert any("dropped" in line for line in lines)


def test_afterwards_everything_is_as_before():
    before = logging.getLogger().handlers[:]
    written(lambda: logging.getLogger("x").warning("said"))
    assert logging.getLogger().handlers == before
