"""gRPC's own threads give way to the event loop.

Every message that is sent or received ends in gRPC's completion queue, whose thread wakes the event loop. Linux lets a
thread that was just woken push aside the one that runs, here the event loop that has just caused the waking, and both
change places twice for every message. Threads under SCHED_BATCH get the same share of a core but push nobody aside
(sched(7)): the completions of everything the loop did in one turn come back together. Per message that was a third of
its price. A loop that has nothing to do is woken as early as before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_THIS_THREAD: Final = 0


@contextmanager
def threads_give_way() -> Iterator[None]:
    """Threads begun inside, and those that they begin, are under SCHED_BATCH; the calling thread is as before afterwards.

    Does nothing where there is no such thing (it is Linux's), or where a sandbox does not allow it.
    """
    if sys.platform != "linux":
        yield
        return
    changed = False
    # What refuses differs from sandbox to sandbox (EPERM, EINVAL, ENOSYS) and is never worth a failed start.
    with suppress(OSError):
        # A new thread inherits its policy. Any other one than the usual was chosen by the operator: theirs stays.
        if os.sched_getscheduler(_THIS_THREAD) == os.SCHED_OTHER:
            os.sched_setscheduler(_THIS_THREAD, os.SCHED_BATCH, os.sched_param(0))
            changed = True
    try:
        yield
    finally:
        if changed:
            with suppress(OSError):
                os.sched_setscheduler(_THIS_THREAD, os.SCHED_OTHER, os.sched_param(0))
