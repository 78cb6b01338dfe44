"""Watching must never hurt what is watched: an observer that fails is counted and logged, and the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

_log = logging.getLogger(__name__)


class Failures:
    """How many observations failed. Logged at 1, 2, 4, 8, ...: a broken observer must not fill the log as well."""

    def __init__(self) -> None:
        self.count = 0

    def harmless(self, observe: Callable[P, None]) -> Callable[P, None]:
        """``observe``, but it never raises."""

        def observed(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                observe(*args, **kwargs)
            except Exception:  # the outermost edge of observing: its bugs are nobody else's
                self.count += 1
                if self.count & (self.count - 1) == 0:
                    _log.exception("an observation failed, %d so far", self.count)

        return observed
