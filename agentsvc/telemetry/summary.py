"""A run in one line of numbers: what a log line says and a histogram counts. Made once, when the run has ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import RunStarted, RunState
from agentsvc.domain.messages import Usage
from agentsvc.domain.quick import quick
from agentsvc.domain.runs import Run
from agentsvc.domain.timeline import AnswerTiming, StageTiming, Timeline


@quick
@dataclass(frozen=True, slots=True)
class RunSummary:
    """Times in microseconds. ``ttft_us`` is None when nothing was ever streamed, ``reason`` when nothing went wrong."""

    run_id: str
    tenant_id: str
    agent_id: str
    session_id: str
    provider: str
    model: str
    state: RunState
    reason: Reason | None
    ttft_us: int | None
    duration_us: int
    overhead_us: int
    usage: Usage
    stages: tuple[StageTiming, ...] = ()
    answers: tuple[AnswerTiming, ...] = ()
    end_time: datetime | None = None

    @classmethod
    def of(cls, tenant_id: str, run: Run, started: RunStarted, timeline: Timeline, duration_us: int) -> Self:
        """The summary of a run that ended ``duration_us`` after its call arrived."""
        stages = timeline.timings()
        ttft = sum(stage.duration_us for stage in stages if stage.critical)
        return cls(
            run_id=run.run_id,
            tenant_id=tenant_id,
            agent_id=run.agent_id,
            session_id=run.session_id,
            provider=started.provider,
            model=started.model,
            state=run.state,
            reason=run.error.reason if run.error else None,
            ttft_us=ttft if timeline.answered else None,
            duration_us=duration_us,
            overhead_us=run.framework_overhead_us,
            usage=run.usage,
            stages=stages,
            answers=tuple(timeline.answers),
            end_time=run.end_time,
        )
