"""What a call can be refused for before a run exists, and what is said then."""

from __future__ import annotations

import random
from collections.abc import Collection

from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.messages import Media, Text
from agentsvc.domain.ports import ChatModel
from agentsvc.domain.runs import Run, RunRequest, ToolChoice, ToolChoiceMode
from agentsvc.engine.catalog import Prepared


def elsewhere(run_id: str) -> AgentsvcError:
    """RUN_NOT_RESUMABLE: the run goes on in another process, which alone can stream or stop it."""
    return AgentsvcError(
        Reason.RUN_NOT_RESUMABLE,
        f"Run {run_id!r} is not in this process. Follow it with GetRun; what ends it here is its own limit in time.",
    )


def going_away() -> AgentsvcError:
    """DRAINING. When to come back is spread: it is another replica that all of them go to."""
    return AgentsvcError(
        Reason.DRAINING,
        "The service is shutting down. Call again: another replica answers.",
        retry_after=random.uniform(0.25, 1),  # noqa: S311 - spread, not secrecy
    )


def reused(request_id: str) -> AgentsvcError:
    """REQUEST_ID_REUSED."""
    return AgentsvcError(
        Reason.REQUEST_ID_REUSED,
        f"request_id {request_id!r} was used before with another request. Use a new id for a new request.",
    )


def ended_before(run: Run, request: RunRequest) -> AgentsvcError:
    """The run of an earlier ``request_id`` that only the store still knows."""
    if run.fingerprint != request.fingerprint:
        return reused(request.request_id)
    return AgentsvcError(
        Reason.RUN_NOT_RESUMABLE,
        f"request_id {request.request_id!r} started run {run.run_id!r}, which is no longer streamed. "
        "Read its text with GetRun.",
        metadata={"run_id": run.run_id},
    )


def not_found(run_id: str) -> AgentsvcError:
    """RUN_NOT_FOUND, for ids that never were and for those of others alike."""
    return AgentsvcError(Reason.RUN_NOT_FOUND, f"There is no run {run_id!r}.")


def check_capabilities(model: ChatModel, prepared: Prepared, request: RunRequest) -> None:
    """What the vendor cannot carry, and a tool that nobody has, is refused before any call."""
    check_tool_choice(prepared, request.options.tool_choice)
    can = model.capabilities
    kinds = _kinds(request)
    for needed, has, field in (
        (bool(prepared.tools.tools), can.tools, "agent.tools"),
        ("image" in kinds, can.images, "parts.image"),
        ("file" in kinds, can.files, "parts.file"),
        (request.options.response_schema is not None, can.response_schema, "options.response_schema"),
    ):
        if needed and not has:
            raise AgentsvcError(
                Reason.CAPABILITY_MISSING,
                f"{field}: provider {model.provider!r} does not support it. Choose another provider or leave it out.",
                provider=model.provider,
            )


def _kinds(request: RunRequest) -> Collection[str]:
    """What is sent beside text."""
    if not request.history and len(request.parts) == 1 and type(request.parts[0]) is Text:
        return ()
    told = (request.parts, *(message.parts for message in request.history or ()))
    return {part.kind for parts in told for part in parts if isinstance(part, Media)}


def check_tool_choice(prepared: Prepared, choice: ToolChoice | None) -> None:
    """A call is forced of a tool that the model is told of, or of none."""
    if choice is None:
        return
    known = ", ".join(prepared.tools.tools) or "none"
    if choice.mode is ToolChoiceMode.TOOL and choice.name not in prepared.tools.tools:
        raise invalid_field("options.tool_choice.name", f"the agent has no tool {choice.name!r}; its tools: {known}")
    if choice.mode is ToolChoiceMode.REQUIRED and not prepared.tools.tools:
        raise invalid_field("options.tool_choice.mode", "REQUIRED needs a tool, and the agent has none")
