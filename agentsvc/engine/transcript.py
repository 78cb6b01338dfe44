"""What a run has said so far, kept so that it can be stopped at any moment and leave a conversation that goes on."""

from __future__ import annotations

from agentsvc.domain.errors import ProviderError, Reason
from agentsvc.domain.events import (
    ModelFailed,
    ModelFinished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
    ToolResult,
    ToolStatus,
)
from agentsvc.domain.messages import (
    NO_USAGE,
    FinishReason,
    Message,
    MessageStatus,
    ProviderState,
    Role,
    Text,
    ToolCall,
    Usage,
)
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.quick import replace
from agentsvc.engine import estimate
from agentsvc.engine.ids import new_id


class Answer:
    """One answer of the model while it arrives: text, reasoning, calls with growing arguments."""

    __slots__ = (
        "_renamed",
        "arguments",
        "complained",
        "finish_reason",
        "names",
        "pieces",
        "reasoning",
        "refused",
        "state",
        "text",
        "usage",
    )

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.names: dict[str, str] = {}
        self.arguments: dict[str, list[str]] = {}
        self.pieces = 0  # chunks of the vendor's that brought something
        self.refused = self.complained = False
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.state: ProviderState | None = None
        self._renamed: dict[str, str] = {}

    def said(self, event: TextDelta) -> None:
        """A piece of the text."""
        self.text.append(event.text)
        self.pieces += event.pieces

    def call_started(self, event: ToolCallStarted, taken: set[str]) -> ToolCallStarted:
        """Ids are unique in a run: one that an earlier step used (some vendors count from 0 each time) gets a new one."""
        if event.tool_call_id in taken:
            self._renamed[event.tool_call_id] = fresh = new_id("call")
            event = ToolCallStarted(fresh, event.name)
        taken.add(event.tool_call_id)
        self.names[event.tool_call_id] = event.name
        self.pieces += 1
        self.arguments[event.tool_call_id] = []
        return event

    def arguments_delta(self, event: ToolCallArgumentsDelta) -> ToolCallArgumentsDelta:
        """A piece of a call's arguments, under the call's id in this run."""
        self.pieces += event.pieces
        if fresh := self._renamed.get(event.tool_call_id):
            event = ToolCallArgumentsDelta(fresh, event.fragment)
        self.arguments[event.tool_call_id].append(event.fragment)
        return event

    def failed(self, event: ModelFailed) -> None:
        """The vendor's end of this answer. ``refused``: it did nothing for the question, and charges nothing;
        ``complained``: it said itself that it failed.
        """
        self.usage = event.usage
        self.complained = event.error.reason not in _CUT_OFF
        self.refused = event.error.reason in _REFUSALS and not self.output and not event.usage

    def finished(self, event: ModelFinished) -> None:
        """The model's own end of this answer."""
        self.usage = event.usage
        if event.finish_reason is FinishReason.ERROR:
            raise ProviderError(
                Reason.PROVIDER_SERVER_ERROR, "The model stopped with an error of its own. Trying again may help."
            )
        self.finish_reason = event.finish_reason
        self.state = event.provider_state

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, in the order in which they began."""
        return tuple(ToolCall(i, name, "".join(self.arguments[i]) or "{}") for i, name in self.names.items())

    @property
    def whole(self) -> str:
        """The text so far. Half a surrogate pair, which only a broken decoder lets through, could never be sent or stored."""
        return "".join(self.text).encode("utf-8", "replace").decode()

    @property
    def output(self) -> str:
        """Everything the model produced, as text to be counted."""
        calls = [piece for i, name in self.names.items() for piece in (name, *self.arguments[i])]
        return "".join((*self.reasoning, *self.text, *calls))


_NONE_YET = Answer()  # of all runs, and only read: a step begins with an answer of its own


class Transcript:
    """The messages of one run, and the answer in the making. ``close`` makes it whole at any moment."""

    __slots__ = (
        "_call_ids",
        "_calls",
        "_provider",
        "_request",
        "_results",
        "answer",
        "finish_reason",
        "messages",
        "requests",
        "started_unrepeatable",
        "step",
        "text",
        "usage",
    )

    def __init__(self) -> None:
        self.started_unrepeatable = False  # a tool that must not run twice was started: the run's error is final
        self.messages: list[Message] = []
        self.answer = _NONE_YET
        self.step = 0
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.usage = NO_USAGE
        self.requests: list[tuple[str, str, Usage]] = []  # provider, model and usage: each has its price
        self._provider = ""
        self._call_ids: set[str] = set()
        self._calls: tuple[ToolCall, ...] = ()  # of the last answer, until their results have become messages
        self._results: dict[str, Message] = {}
        self._request: ModelRequest | None = None

    def begin_step(self, step: int, request: ModelRequest, provider: str = "") -> Answer:
        """A new request is about to leave for ``provider``."""
        self.step = step
        self.answer = Answer()
        self._provider = provider
        self._request = request
        return self.answer

    def heard(
        self, event: ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta
    ) -> tuple[ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta, int]:
        """Takes a delta in that is no text; returns it as callers see it, and how many characters it spent."""
        match event:
            case ReasoningDelta():
                self.answer.reasoning.append(event.text)
                self.answer.pieces += event.pieces
                return event, len(event.text)
            case ToolCallArgumentsDelta():
                return self.answer.arguments_delta(event), len(event.fragment)
            case ToolCallStarted():
                return self.answer.call_started(event, self._call_ids), len(event.name)

    def end_answer(self, calls: tuple[ToolCall, ...]) -> tuple[FinishReason, Usage]:
        """The answer is complete: it becomes a message. Its tool calls are open until their results come.

        Raises:
            ProviderError: the model never said that it was done, which is never a success.
        """
        answer = self.answer
        if answer.finish_reason is None:
            raise ProviderError(Reason.STREAM_TRUNCATED, "The model's answer broke off. Trying again may help.")
        usage = self._book(self._count(answer))
        self.text = answer.whole
        self.finish_reason = FinishReason.TOOL_CALLS if calls else answer.finish_reason
        parts = (Text(self.text),) if self.text else ()
        if parts or calls or answer.state is not None:  # vendors refuse a history with an empty message in it
            self.messages.append(Message(Role.ASSISTANT, parts, calls, provider_state=answer.state))
        self._calls, self._results = calls, {}
        self._request = None
        return self.finish_reason, usage

    def discard(self) -> Usage:
        """The answer in the making failed and another model goes on: it is paid for, and nothing of it stays."""
        usage = self._book(self._broken_off())
        self._request, self.answer = None, Answer()
        return usage

    def result(self, result: ToolResult) -> None:
        """A tool call's result."""
        failed = result.status is not ToolStatus.OK
        self._results[result.tool_call_id] = Message(
            Role.TOOL, result.content, tool_call_id=result.tool_call_id, is_error=failed
        )

    def end_calls(self) -> None:
        """The tools of a step are over: their results become messages in the order of the calls, since the prompt must
        not depend on who was faster. A call without a result is answered as cancelled.
        """
        for call in self._calls:
            self.messages.append(self._results.get(call.tool_call_id) or _cancelled(call))
        self._calls, self._results = (), {}

    def close(self) -> None:
        """The run stops here. An unfinished answer is kept as PARTIAL text without its unfinished calls; an open tool
        call is answered as cancelled, so that the history holds no dangling call and the next turn works.
        """
        if self._request is not None:
            self._book(self._broken_off())
            self._request = None
            self.text = self.answer.whole
            if self.text:
                self.messages.append(Message(Role.ASSISTANT, (Text(self.text),), status=MessageStatus.PARTIAL))
        self.end_calls()

    def _book(self, usage: Usage) -> Usage:
        assert self._request is not None  # noqa: S101 - only inside a step
        self.usage += usage
        self.requests.append((self._provider, self._request.model, usage))
        return usage

    def _broken_off(self) -> Usage:
        """What an answer costs that did not end. A refusal costs nothing; that is our word and not the vendor's.

        Where the connection broke, a vendor that counts as it goes has not counted all that came (Anthropic says 1 before
        the first word): if it lags by more than an estimate errs, the estimate is the better count. A vendor that ended
        the answer with an error of its own has had its say.
        """
        answer = self.answer
        if answer.refused:
            return Usage(estimated=True)
        if answer.complained:
            return self._count(answer)
        usage, came = self._count(answer), estimate.output_tokens(answer.output, answer.pieces)
        return usage if 2 * usage.output_tokens >= came else replace(usage, output_tokens=came, estimated=True)

    @property
    def provider(self) -> str:
        """Who was asked last; empty before anybody was."""
        return self._provider

    def _count(self, answer: Answer) -> Usage:
        """The vendor's count, with our estimate in the place of what it did not give; never 0/0 by accident."""
        assert self._request is not None  # noqa: S101 - only inside a step
        told, output = answer.usage or NO_USAGE, answer.output
        knows_input = told.input_tokens or told.cached_input_tokens or told.cache_write_tokens
        if knows_input and (told.output_tokens or not output):
            return told
        guess = estimate.usage(self._request, output, answer.pieces)
        return replace(
            told,
            input_tokens=told.input_tokens if knows_input else guess.input_tokens,
            output_tokens=told.output_tokens or guess.output_tokens,
            estimated=True,
        )


# What a vendor answers before it has worked for the question.
_REFUSALS = frozenset(
    {
        Reason.CAPABILITY_MISSING,
        Reason.INVALID_FIELD,
        Reason.PROVIDER_AUTH,
        Reason.PROVIDER_PERMISSION,
        Reason.PROVIDER_NOT_FOUND,
        Reason.PROVIDER_INVALID_REQUEST,
        Reason.PROVIDER_QUOTA,
        Reason.PROVIDER_RATE_LIMIT,
        Reason.PROVIDER_OVERLOADED,
        Reason.PROVIDER_SERVER_ERROR,
        Reason.PROVIDER_UNREACHABLE,
        Reason.CONTEXT_LENGTH,
        Reason.CONTENT_FILTER,
    }
)


# What we found, and no vendor said.
_CUT_OFF = frozenset(
    {
        Reason.FIRST_TOKEN_TIMEOUT,
        Reason.IDLE_TIMEOUT,
        Reason.MALFORMED_STREAM,
        Reason.PROVIDER_UNREACHABLE,
        Reason.STREAM_TRUNCATED,
    }
)


def _cancelled(call: ToolCall) -> Message:
    return Message(Role.TOOL, (Text("The call was cancelled."),), tool_call_id=call.tool_call_id, is_error=True)
