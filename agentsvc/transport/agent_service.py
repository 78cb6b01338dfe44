"""agentsvc.v1.AgentService: the caller's door. One screen per method."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

from agentsvc import v1
from agentsvc.engine.journal import Journal
from agentsvc.engine.live import Live
from agentsvc.engine.runs import Runs
from agentsvc.transport import codec_requests as requests
from agentsvc.transport import codec_resources as resources
from agentsvc.transport.interceptors import Call
from agentsvc.transport.relay import Streams, relay
from agentsvc.transport.streams import agree, open_stream, set_trailers

_LAST_EVENTS: Final = 64  # after generation_completed come memory_updated events and run_finished


class AgentService:
    """Starts runs and reads them. ``heartbeat`` in seconds."""

    def __init__(self, runs: Runs, heartbeat: float) -> None:
        self._runs = runs
        self._admission = runs.admission
        self.streams = Streams(heartbeat, self._admission.config.idle_reader)

    async def stream_chat(self, request: v1.StreamChatRequest, call: Call) -> None:
        """The answer while it is produced; the status agrees with run_finished."""
        with self._admission.take_reader(call.principal) as place:
            live = await self._start(request, call)
            finished = await relay(live.reader(), call, self.streams, place)
        set_trailers(call, live.run_id, finished.usage, finished.framework_overhead_us, live.started)
        agree(finished.state, finished.error)

    async def subscribe_run(self, request: v1.SubscribeRunRequest, call: Call) -> None:
        """The same events again, from a cursor on; a run may be silent, so the stream opens at once."""
        with self._admission.take_reader(call.principal) as place:
            reader = await self._runs.subscribe(call.principal, request.run_id, request.after_sequence)
            try:
                await open_stream(call, request.run_id)
            except BaseException:
                reader.close()
                raise
            live = self._runs.find(call.principal, request.run_id)
            finished = await relay(reader, call, self.streams, place)
        started = live.started if live else None
        set_trailers(call, request.run_id, finished.usage, finished.framework_overhead_us, started)
        agree(finished.state, finished.error)

    async def chat(self, request: v1.ChatRequest, call: Call) -> v1.ChatResponse:
        """The answer whole. The call counts as a reader, so its leaving counts too; it reads nothing of the journal."""
        with self._admission.take_reader(call.principal):
            live = await self._start(request, call)
            reader = live.reader(follows=False)
            try:
                await open_stream(call, live.run_id)
                run = await live.ended()
            finally:
                reader.close()
        set_trailers(call, run.run_id, run.usage, run.framework_overhead_us, live.started)
        agree(run.state, run.error)
        text = run.text or run.partial_text
        return v1.ChatResponse(run=resources.to_run(run), text=text, timings=_timings(live.journal))

    async def get_run(self, request: v1.GetRunRequest, call: Call) -> v1.GetRunResponse:
        """A run's record."""
        run = await self._runs.get(call.principal, request.run_id)
        return v1.GetRunResponse(run=resources.to_run(run))

    async def list_runs(self, request: v1.ListRunsRequest, call: Call) -> v1.ListRunsResponse:
        """Runs, newest first."""
        page = await self._runs.list(call.principal, requests.page(request), requests.filter_of(request))
        return v1.ListRunsResponse(
            runs=[resources.to_run(run, texts=False) for run in page.items], next_page_token=page.next_token
        )

    async def cancel_run(self, request: v1.CancelRunRequest, call: Call) -> v1.CancelRunResponse:
        """Stops a run, idempotently."""
        run = await self._runs.cancel(call.principal, request.run_id)
        return v1.CancelRunResponse(run=resources.to_run(run))

    def _start(self, request: v1.StreamChatRequest | v1.ChatRequest, call: Call) -> Awaitable[Live]:
        return self._runs.start(call.principal, requests.run_request(request, call.deadline), call.timeline)


def _timings(journal: Journal) -> Sequence[v1.StageTiming]:
    """Those of generation_completed, which is among an ended run's last events."""
    for wire in journal.since(max(journal.oldest - 1, journal.last - _LAST_EVENTS)):
        event = v1.StreamChatResponse.FromString(wire).event
        if event.HasField("generation_completed"):
            return event.generation_completed.timings
    return ()
