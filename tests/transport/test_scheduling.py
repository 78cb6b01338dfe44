"""gRPC's threads push nobody aside; the event loop's thread stays as it was."""

from __future__ import annotations

import errno
import os
import sys
import threading

import pytest

from agentsvc.transport.scheduling import threads_give_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


def test_threads_begun_inside_give_way_and_the_one_that_begins_them_does_not_for_long():
    before = os.sched_getscheduler(0)
    with threads_give_way():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before
    assert policy_of_a_new_thread() == before


def test_the_caller_is_as_before_also_when_the_server_does_not_start():
    before = os.sched_getscheduler(0)
    with pytest.raises(OSError, match="in use"), threads_give_way():
        raise OSError("in use")
    assert os.sched_getscheduler(0) == before


def test_what_the_operator_chose_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_IDLE)
    chosen: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda _thread, policy, _param: chosen.append(policy))
    with threads_give_way():
        assert os.SCHED_BATCH not in chosen


@pytest.mark.parametrize("call", ["sched_getscheduler", "sched_setscheduler"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_a_sandbox_that_forbids_it_costs_speed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, call: str, number: int
):
    def forbidden(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, forbidden)
    with threads_give_way():
        pass
