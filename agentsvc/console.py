"""A conversation in the terminal: tokens as they come, tool calls, then where the time to the first token went."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from time import perf_counter
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentsvc.client import AgentClient, ChatStream

_BAR: Final = 48  # columns
# Stages in which somebody else has the ball: the model, and the network on a connection's first use.
_MODEL: Final = "first_token"
_NETWORK: Final = frozenset({"dns", "connect", "tls"})


async def ask(client: AgentClient, console: Console, message: str, **fields: Any) -> str:
    """Asks, shows the answer while it is produced and what it took. Returns the session's id for the next question.

    Raises:
        AgentError: the call was refused or the run did not complete.
    """
    asked = perf_counter()
    options = {"streaming": {"emit_timings": True}}
    async with client.stream_chat(message=message, options=options, **fields) as stream:
        screen = Screen(console, asked)
        await screen.follow(stream)
    return screen.session_id


class Screen:
    """Shows one run. ``asked`` is the ``perf_counter`` reading of the question, for the caller's own view of the time."""

    def __init__(self, console: Console, asked: float) -> None:
        self.session_id = ""
        self._console = console
        self._asked = asked
        self._first: float | None = None
        self._at_line_start = True
        self._stages: list[Any] = []

    async def follow(self, stream: ChatStream) -> None:
        """Shows the events to the last one."""
        async with aclosing(stream):
            async for event in stream:
                self._show(event)

    def _show(self, event: Any) -> None:
        kind = event.WhichOneof("kind")
        value = getattr(event, kind)
        if self._first is None and kind in {"text_delta", "reasoning_delta", "tool_call_started"}:
            self._first = perf_counter() - self._asked
        match kind:
            case "run_started":
                self.session_id = value.session_id
                self._line(f"{value.run_id}  {value.provider}/{value.model}", "dim")
            case "text_delta":
                self._write(value.text)
            case "reasoning_delta":
                self._write(value.text, "dim italic")
            case "attempt_changed":
                self._line(f"{value.reason}: {value.to} answers instead; forget the text above", "yellow")
            case "tool_call_requested":
                self._line(f"→ {value.name}({value.arguments_json})", "cyan")
            case "tool_progress":
                self._line(f"  {value.message}", "dim cyan")
            case "tool_result":
                self._line(f"← {_text(value.content)}  ({value.duration_us / 1000:.1f} ms)", "cyan")
            case "generation_completed":
                self._stages = list(value.timings)
            case "run_finished":
                self._finish(value)

    def _finish(self, finished: Any) -> None:
        usage, state = finished.usage, _name(finished, "state")
        self._line(
            f"{state}: {usage.input_tokens} tokens in, {usage.output_tokens} out; "
            f"our own time in the whole run {finished.framework_overhead_us / 1000:.1f} ms",
            "dim",
        )
        if self._stages:
            self._console.print()
            self._console.print(waterfall(self._stages))
            self._line(verdict(self._stages, self._first or 0.0), "bold")

    def _write(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), end="", soft_wrap=True)
        self._at_line_start = text.endswith("\n")

    def _line(self, text: str, style: str = "") -> None:
        """A line of its own, whatever stands before it."""
        if not self._at_line_start:
            self._console.print()
        self._console.print(Text(text, style), soft_wrap=True)
        self._at_line_start = True


def waterfall(stages: Iterable[Any]) -> Table:
    """Where the time to the first token went: one bar per stage (v1.StageTiming), placed in time."""
    total = sum(stage.duration_us for stage in stages if stage.critical)
    table = Table("stage", box=None, pad_edge=False)
    table.add_column("start", justify="right")
    table.add_column("took", justify="right")
    table.add_column("where the time to the first token went", width=_BAR)
    for stage in sorted(stages, key=lambda stage: stage.start_us):
        table.add_row(stage.stage, _ms(stage.start_us), _ms(stage.duration_us), _bar(stage, total), style=_style(stage))
    return table


def verdict(stages: Iterable[Any], seen: float) -> str:
    """Whose time it was. ``seen``: seconds until the caller saw it, the way to the service and back included."""
    critical = [stage for stage in stages if stage.critical]
    total = sum(stage.duration_us for stage in critical)
    theirs = sum(stage.duration_us for stage in critical if stage.stage == _MODEL or stage.stage in _NETWORK)
    return (
        f"first token after {_ms(total)}: {_ms(total - theirs)} ours, {_ms(theirs)} the provider's "
        f"(seen by this caller after {_ms(seen * 1e6)})"
    )


def _bar(stage: Any, total: int) -> Text:
    """A stage's place in time; the shortest one still shows."""
    scale = _BAR / max(total, 1)
    start = min(round(stage.start_us * scale), _BAR - 1)
    width = max(1, min(round(stage.duration_us * scale), _BAR - start))
    return Text(" " * start + ("█" if stage.critical else "░") * width)


def _style(stage: Any) -> str:
    if not stage.critical:
        return "dim"
    if stage.stage == _MODEL:
        return "yellow"
    return "blue" if stage.stage in _NETWORK else "green"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.1f} ms"


def _text(parts: Iterable[Any]) -> str:
    return " ".join(part.text or f"[{part.WhichOneof('kind') or 'empty'}]" for part in parts)


def _name(message: Any, field: str) -> str:
    """The name of an enum's value, without its type prefix."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    name: str = kind.values_by_number[getattr(message, field)].name
    return name.removeprefix("RUN_STATE_")
