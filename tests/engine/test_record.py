"""What a run leaves behind says the same thing to everybody who asks, in whatever form."""

from __future__ import annotations

from dataclasses import fields

import pytest

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import RunFinished, RunState, TextDelta
from agentsvc.domain.messages import Message, Role, Text
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import Run, RunRequest
from agentsvc.engine import record
from agentsvc.engine.endings import CANCELLED, COMPLETED, Ending
from agentsvc.engine.transcript import Transcript

RUN = Run("run_1", "agent_1", "session_1", state=RunState.RUNNING)
ASKED = RunRequest("agent_1", (Text("Why?"),), "session_1")
ANSWER = Message(Role.ASSISTANT, (Text("Because."),))


def said(text: str) -> Transcript:
    """Of an answer that is not over."""
    transcript = Transcript()
    transcript.begin_step(1, ModelRequest("gpt-5", ()), "openai").said(TextDelta(text))
    transcript.close()
    return transcript


def settled(ending: Ending) -> Run:
    return record.settled(RUN, ending, said("Because."), None, last_sequence=7, overhead_us=12)


def test_an_answer_is_text_when_it_is_whole_and_partial_text_when_it_is_not():
    whole, broken = settled(COMPLETED), settled(CANCELLED)
    assert (whole.text, whole.partial_text) == ("Because.", "")
    assert (broken.text, broken.partial_text) == ("", "Because.")
    assert broken.error is CANCELLED.error
    assert whole.end_time is not None


def test_run_finished_says_what_the_record_says():
    run = settled(CANCELLED)
    finished = record.finished(run, persisted=True, event_loop_lag_us=3)
    for field in fields(RunFinished):
        if field.name not in {"persisted", "event_loop_lag_us"}:
            assert getattr(finished, field.name) == getattr(run, field.name), field.name


def test_a_turn_is_the_question_and_the_answer_each_with_an_id_that_a_repeated_write_finds_again():
    turn = record.turn(settled(COMPLETED), ASKED, (ANSWER,))
    assert [(message.message_id, message.run_id, message.text) for message in turn] == [
        ("run_1.0", "run_1", "Why?"),
        ("run_1.1", "run_1", "Because."),
    ]


@pytest.mark.parametrize(("reason", "kept"), [(Reason.CONTENT_FILTER, 0), (Reason.PROVIDER_UNREACHABLE, 1)])
def test_a_question_that_the_vendor_will_not_have_is_kept_out_of_the_next_turns(reason: Reason, kept: int):
    refused = settled(Ending.failed(reason, "No."))
    assert len(record.turn(refused, ASKED, ())) == kept
    assert len(record.turn(refused, ASKED, (ANSWER,))) == 2  # part of it was answered: it can be asked


def test_an_error_names_who_failed_and_promises_no_retry_after_a_tool_that_must_not_run_twice():
    transcript = said("")
    error = Error(Reason.PROVIDER_UNREACHABLE, "Down.", retryable=True)
    assert record.final(error, transcript) == Error(
        Reason.PROVIDER_UNREACHABLE, "Down.", retryable=True, provider="openai"
    )
    transcript.started_unrepeatable = True
    assert not record.final(error, transcript).retryable


def test_a_run_that_goes_on_is_told_as_far_as_it_is():
    now = record.so_far(RUN, said("Beca"), 3)
    assert (now.state, now.partial_text, now.last_sequence, now.text) == (RunState.RUNNING, "Beca", 3, "")
