"""The structured log: JSON lines on stderr, or coloured ones on a terminal. Everything goes through it, libraries too.

Lines are rendered and written by a thread of their own: a full pipe or a slow terminal must never stop the event loop,
so what does not fit into its queue is dropped and counted. The thread looks ten times a second and takes all there is:
to be woken for every line would cost the event loop more than the line does. Secrets are blotted out on the way, by the name of their
field and by what they look like.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from agentsvc.domain.events import RunState
from agentsvc.telemetry.summary import RunSummary

_BACKLOG = 10_000  # lines
_LINES_AT_ONCE = 64
_ROUND = 0.1  # seconds between two looks
_LAST_CHANCE = 2.0  # seconds a reader of the log has at the end to take what is left
_BLOT = "***"
_SECRET_FIELD = re.compile(r"(?i)authorization|api_?key|secret|password|passwd|cookie|^(?:\w*_)?token$")
_SECRET_LOOKS = (
    (re.compile(r"(agentsvc_[0-9a-f]{16}_)[\w-]+"), rf"\1{_BLOT}"),  # our own tokens: the public id may be seen
    (re.compile(r"(?i)\b(bearer\s+)[^\s'\",]+"), rf"\1{_BLOT}"),
    (re.compile(r"(://[^:/@\s]*:)[^@/\s]+(@)"), rf"\1{_BLOT}\2"),  # the password in a URL
    (re.compile(r"\b((?:sk|pk|gsk|xai|key)-)[\w-]{8,}"), rf"\1{_BLOT}"),  # vendors' keys
    (re.compile(r"([?&](?:key|api_key|access_token)=)[^&\s'\"]+"), rf"\1{_BLOT}"),
)
# What every one of them has, looked for first: nearly all values are innocent.
_SUSPECT = re.compile(r"(?i)agentsvc_|bearer|://|\b(?:sk|pk|gsk|xai|key)-|(?:key|token)=")
# A part of each of its alternatives.
_MARKS = ("agentsvc_", "bearer", "://", "sk-", "pk-", "xai-", "key-", "key=", "token=")
_log = logging.getLogger("agentsvc.runs")


class LogLevel(StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """AUTO: CONSOLE on a terminal, else JSON."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is written, and how."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


@contextmanager
def logging_to(stream: TextIO, config: LogConfig) -> Iterator[None]:
    """Everything logged in the block, by us or by libraries, goes to ``stream``; all of it is written at the end."""
    console = config.format is LogFormat.CONSOLE or (config.format is LogFormat.AUTO and stream.isatty())
    writer = logging.StreamHandler(stream)
    writer.setFormatter(_formatter(console=console))
    handler = _Handoff(writer, json=not console)
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every look at the database
    try:
        yield
    finally:
        root.level, root.handlers[:] = before
        handler.close()


def dropped() -> int:
    """How many lines were lost because nobody read them."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, _Handoff))


def run_ended(summary: RunSummary) -> None:
    """The one line of a run. Costs the event loop an append: the line is made where it is written."""
    level = logging.WARNING if summary.state is RunState.FAILED else logging.INFO
    if _log.isEnabledFor(level):
        _log.handle(_RunEnded(summary, level))


class _RunEnded(logging.LogRecord):
    """A run's line before it is made: none of what logging finds out about other records is worth its time here."""

    def __init__(self, summary: RunSummary, level: int) -> None:  # its parent's __init__ is what is spared
        self.__dict__.update(_BLANK)
        self.summary = summary
        self.levelno, self.levelname = level, logging.getLevelName(level)
        self.created = summary.end_time.timestamp() if summary.end_time else time.time()

    def spell_out(self) -> None:
        """Puts the fields where formatters look for them."""
        self.__dict__.update(_fields(self.__dict__.pop("summary")))

    def json(self) -> str:
        """The line as the formatter would make it, at a tenth of its price."""
        line = {
            "event": self.msg,
            "level": _LEVELS[self.levelno],
            "logger": self.name,
            **_fields(self.summary),
            "timestamp": datetime.fromtimestamp(self.created, UTC).isoformat()[:-6] + "Z",
        }
        # No field of this line has the name of a secret; what stands in it may still look like one.
        text = msgspec.json.encode(line).decode()
        lowered = text.lower()
        if any(mark in lowered for mark in _MARKS):  # at a tenth of the price of looking for the exact pattern
            text = msgspec.json.encode(redact(None, "", line)).decode()
        return text + "\n"


_LEVELS = {logging.INFO: "info", logging.WARNING: "warning"}
_BLANK = logging.LogRecord(_log.name, logging.INFO, "", 0, "run ended", None, None).__dict__


def _fields(summary: RunSummary) -> dict[str, Any]:
    usage = summary.usage
    return {
        "run_id": summary.run_id,
        "tenant": summary.tenant_id,
        "agent": summary.agent_id,
        "session_id": summary.session_id or None,
        "provider": summary.provider,
        "model": summary.model,
        "state": summary.state.value,
        "reason": summary.reason.value if summary.reason else None,
        "ttft_ms": None if summary.ttft_us is None else _milliseconds(summary.ttft_us),
        "duration_ms": _milliseconds(summary.duration_us),
        "overhead_ms": _milliseconds(summary.overhead_us),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "usage_estimated": usage.estimated,
    }


def redact(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Blots secrets out of a line, also where they stand inside a text or a traceback."""
    for name, value in line.items():
        if _SECRET_FIELD.search(name):
            line[name] = _BLOT
        elif isinstance(value, str):
            line[name] = blotted(value)
    return line


def blotted(text: str) -> str:
    """``text`` without what looks like a secret."""
    if not _SUSPECT.search(text):
        return text
    for looks, instead in _SECRET_LOOKS:
        text = looks.sub(instead, text)
    return text


class _Handoff(logging.Handler):
    """Leaves records to a thread that writes them; never waits, and counts what it had to drop."""

    def __init__(self, writer: logging.StreamHandler[TextIO], *, json: bool) -> None:
        super().__init__()
        self._writer = writer
        self._json = json
        self._waiting: deque[logging.LogRecord] = deque()
        self.dropped = self._told = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Puts it in line if there is room."""
        if len(self._waiting) < _BACKLOG:
            self._waiting.append(record)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Writes what is left, unless nobody takes it."""
        self._closing.set()
        self._thread.join(_LAST_CHANCE)
        super().close()

    def _write(self) -> None:
        while not self._closing.wait(_ROUND):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        lines: list[str] = []
        while self._waiting:
            record = self._waiting.popleft()
            if isinstance(record, _RunEnded) and self._json:
                lines.append(record.json())
                if len(lines) < _LINES_AT_ONCE:
                    continue
            self._put(lines)
            if not isinstance(record, _RunEnded):
                self._writer.handle(record)
            elif not self._json:
                record.spell_out()
                self._writer.handle(record)
        self._put(lines)
        if (dropped := self.dropped) > self._told:
            self._told = dropped
            message = f"log lines dropped so far because nobody read them: {dropped}"
            self._writer.handle(logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None))

    def _put(self, lines: list[str]) -> None:
        """Writes the lines that wait, in one go, and lets the event loop have the interpreter in between."""
        if not lines:
            return
        try:
            self._writer.stream.write("".join(lines))
            self._writer.flush()
        except (OSError, ValueError):  # whoever read the log is gone
            self.dropped += len(lines)
        lines.clear()


def _formatter(*, console: bool) -> logging.Formatter:
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,  # plain text: rich tracebacks show local variables, and what is in them
            redact,
            renderer,
        ],
    )


def _milliseconds(microseconds: int) -> float:
    return round(microseconds / 1000, 1)
