"""Tools: Python functions that a model may call, made from their own signatures, run in parallel, each within its time.

    @tool
    async def get_weather(city: str, unit: Literal["C", "F"] = "C") -> str:
        '''The weather in a city, now.'''

The JSON Schema comes from the annotations and arguments are checked against it before the function sees them. A
function may take a ``context`` parameter (ToolContext) to report progress. Plain functions run in a thread: cancelling
the run does not stop the thread, its result is dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from math import isnan
from threading import get_ident
from time import perf_counter_ns
from typing import Any, get_type_hints, overload

import msgspec

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ToolProgress, ToolResult, ToolStatus
from agentsvc.domain.messages import Media, Part, Text, ToolCall, ToolSpec
from agentsvc.domain.quick import quick

_log = logging.getLogger(__name__)
_MAX_RESULT_BYTES = 1 << 20
_MAX_ERROR = 16_384  # characters of a ToolError
_MAX_PROGRESS = 4096  # characters of a progress message
# Not asyncio's own executor: it has a handful of threads, and look-ups of host names wait in its queue.
_THREADS = ThreadPoolExecutor(64, thread_name_prefix="tool")


class ToolError(Exception):
    """Raised by a tool to tell the model what went wrong, in words meant for it. Other exceptions show only their type."""


@quick
@dataclass(frozen=True, slots=True)
class Tool:
    """A function and what a model must know to call it. ``timeout`` in seconds.

    ``idempotent``: running it twice does no harm, so a failed run that used it may be retried.
    """

    spec: ToolSpec
    function: Callable[..., Any]
    arguments: type[Any]
    takes_context: bool = False
    timeout: float = 60.0
    idempotent: bool = False


@overload
def tool(
    function: Callable[..., Any],
    *,
    name: str = "",
    description: str = "",
    timeout: float = 60.0,
    idempotent: bool = False,
) -> Tool: ...


@overload
def tool(
    *, name: str = "", description: str = "", timeout: float = 60.0, idempotent: bool = False
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str = "",
    description: str = "",
    timeout: float = 60.0,
    idempotent: bool = False,
) -> Any:
    """Makes a Tool of a function, sync or async. Use bare or with arguments. The docstring is the description."""
    if function is None:
        return lambda f: tool(f, name=name, description=description, timeout=timeout, idempotent=idempotent)
    name = name or function.__name__
    hints = get_type_hints(function, include_extras=True)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "context"]
    fields = [
        (p.name, hints.get(p.name, Any)) if p.default is p.empty else (p.name, hints.get(p.name, Any), p.default)
        for p in parameters
    ]
    arguments = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True)
    return Tool(
        ToolSpec(name, description or inspect.getdoc(function) or "", _schema(arguments)),
        function,
        arguments,
        "context" in inspect.signature(function).parameters,
        timeout,
        idempotent,
    )


def _schema(arguments: type[Any]) -> dict[str, Any]:
    """The JSON Schema of an arguments struct, as vendors take it: an object at the root, definitions beside it."""
    (schema,), definitions = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    root = definitions.pop(schema["$ref"].removeprefix("#/$defs/"))
    root.pop("title", None)
    return {**root, "$defs": definitions} if definitions else dict(root)


@dataclass(slots=True)
class CallContext:
    """The ToolContext of one call."""

    tool_call_id: str
    run_id: str
    user_id: str
    metadata: Mapping[str, Any]
    report: Callable[[ToolProgress], None]

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Tells the caller how far the tool is. A long message is cut, a fraction beside 0 to 1 moved there."""
        share = None if fraction is None or isnan(fraction) else min(max(fraction, 0.0), 1.0)
        self.report(ToolProgress(self.tool_call_id, _sendable(message[:_MAX_PROGRESS]), share))


@quick
@dataclass(frozen=True, slots=True)
class Toolset:
    """The tools of one agent, by name, in a stable order (the prompt's prefix must not change between turns)."""

    tools: Mapping[str, Tool] = field(default_factory=dict)

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> Toolset:
        """A set of these tools."""
        return cls({tool.spec.name: tool for tool in tools})

    def pick(self, names: Iterable[str]) -> Toolset:
        """The named ones; INVALID_FIELD ``agent.tools`` for a name the operator did not allow."""
        names = tuple(names)
        if unknown := [name for name in names if name not in self.tools]:
            known = ", ".join(sorted(self.tools)) or "none"
            raise AgentsvcError(
                Reason.INVALID_FIELD,
                f"agent.tools: no tool named {unknown[0]!r}; the operator allows: {known} (AGENTSVC_TOOLS).",
            )
        return Toolset({name: self.tools[name] for name in names})

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told."""
        return tuple(tool.spec for tool in self.tools.values())

    def spoils_retry(self, calls: Sequence[ToolCall]) -> bool:
        """Whether one of these calls starts a tool that must not run twice."""
        return any(not tool.idempotent for call in calls if (tool := self.tools.get(call.name)))


async def run_tools(
    tools: Toolset, calls: Sequence[ToolCall], *, run_id: str, user_id: str, metadata: Mapping[str, Any]
) -> AsyncGenerator[ToolProgress | ToolResult, None]:
    """Runs the calls beside each other; yields progress and results as they come. Closing it cancels what still runs."""
    events: asyncio.Queue[ToolProgress | ToolResult] = asyncio.Queue()

    loop, home, closing = asyncio.get_running_loop(), get_ident(), False

    def report(progress: ToolProgress) -> None:
        if get_ident() == home:
            events.put_nowait(progress)
        else:  # a plain function, in its thread
            loop.call_soon_threadsafe(events.put_nowait, progress)

    async def one(call: ToolCall) -> None:
        context = CallContext(call.tool_call_id, run_id, user_id, metadata, report)
        started = perf_counter_ns()
        try:
            status, content = await _outcome(tools.tools.get(call.name), call, context)
        except asyncio.CancelledError:
            if closing:
                raise
            status, content = ToolStatus.CANCELLED, (Text("The tool cancelled itself."),)
        events.put_nowait(ToolResult(call.tool_call_id, status, content, (perf_counter_ns() - started) // 1000))

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    pending = {call.tool_call_id for call in calls}
    try:
        while pending:
            event = await events.get()
            if event.tool_call_id not in pending:
                continue  # a thread that outlived its time still reports, but the model has been answered
            if isinstance(event, ToolResult):
                pending.remove(event.tool_call_id)
            yield event
    finally:
        closing = True
        for task in tasks:
            task.cancel()


async def _outcome(tool: Tool | None, call: ToolCall, context: CallContext) -> tuple[ToolStatus, tuple[Part, ...]]:
    """Runs one call; whatever goes wrong becomes something the model can read."""
    if tool is None:
        return ToolStatus.ERROR, (Text(f"There is no tool named {call.name!r}."),)
    try:
        arguments = msgspec.json.decode(call.arguments_json or "{}", type=tool.arguments)
    except msgspec.MsgspecError as error:
        return ToolStatus.ERROR, (Text(f"Invalid arguments: {error}"),)
    keywords = {name: getattr(arguments, name) for name in arguments.__struct_fields__}
    if tool.takes_context:
        keywords["context"] = context
    limit = asyncio.timeout(tool.timeout)
    try:
        async with limit:
            return ToolStatus.OK, _content(await _call(tool.function, keywords))
    except ToolError as error:
        return ToolStatus.ERROR, (Text(_sendable(str(error)[:_MAX_ERROR])),)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # a tool is foreign code: whatever it raises is its result, not ours
        if limit.expired():
            return ToolStatus.TIMEOUT, (Text(f"The tool did not answer within {tool.timeout:g} s."),)
        _log.warning("tool %s failed", call.name, exc_info=True)
        return ToolStatus.ERROR, (Text(f"The tool failed: {type(error).__name__}."),)


async def _call(function: Callable[..., Any], keywords: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**keywords)
    call = partial(copy_context().run, _tried, function, keywords)
    value, failure = await asyncio.get_running_loop().run_in_executor(_THREADS, call)
    if failure is not None:
        raise failure
    return value


def _tried(function: Callable[..., Any], keywords: dict[str, Any]) -> tuple[Any, BaseException | None]:
    """What it returned or raised: a future takes no StopIteration, so whoever awaits it would wait for ever."""
    try:
        return function(**keywords), None
    except BaseException as failure:  # raised again in the task that waits
        return None, failure


def _content(value: Any) -> tuple[Part, ...]:
    """What the model is told of a result: text as it is, parts as they are, anything else as JSON.

    Raises:
        ToolError: it is more than 1 MiB, which no model's context takes and no default gRPC client receives beside others.
    """
    match value:
        case str():
            parts: tuple[Part, ...] = (Text(value),)
        case Text() | Media():
            parts = (value,)
        case tuple() if value and all(isinstance(part, Text | Media) for part in value):
            parts = value
        case _:
            parts = (Text(msgspec.json.encode(value).decode()),)
    parts = tuple(Text(_sendable(part.text)) if isinstance(part, Text) else part for part in parts)
    size = sum(len(part.text.encode()) if isinstance(part, Text) else len(part.data) for part in parts)
    if size > _MAX_RESULT_BYTES:
        raise ToolError(f"The result is {size} bytes, more than the {_MAX_RESULT_BYTES} that fit. Ask for less.")
    return parts


def _sendable(text: str) -> str:
    """``text`` as UTF-8 can hold it: half a surrogate pair could neither be sent nor stored."""
    return text.encode("utf-8", "replace").decode()
