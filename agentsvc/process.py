"""What a serving process does for itself once it is up.

A service waits most of the time, and what waits grows cold: by the next call the processor has forgotten where pages
are, and the way to a first token leads through hundreds of them. In large pages the same memory is a few dozen. On
two cores that was 50 us of a first token's 1,200.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_LARGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage")
_AREAS: Final = Path("/proc/self/smaps")
_COLLAPSE: Final = 25  # MADV_COLLAPSE, Linux 6.1
# An anonymous area that can be written: the heap, Python's arenas, stacks.
_ANONYMOUS: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0 *(?:\[heap\])?\n")


def settle() -> None:
    """What is there now will stay: it is looked after once, and then left alone."""
    _spare_the_collector()
    with suppress(Exception):  # another system, or a sandbox that shows nothing of it: never worth a failed start
        use_large_pages()


def _spare_the_collector() -> None:
    """The collector need not walk through some 500,000 objects again and again.

    Runs make few cycles and free nearly everything by reference count, so it may also look less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def use_large_pages() -> int:
    """Moves the process's memory into large pages, and returns how many these are.

    None where the operator has switched them off for the machine (``never``), or where the kernel cannot (before 6.1).

    Raises:
        Exception: not all of it can be seen or reached here; what, differs from sandbox to sandbox.
    """
    if sys.platform != "linux" or "[never]" in (_LARGE_PAGES / "enabled").read_text():
        return 0
    size = int((_LARGE_PAGES / "hpage_pmd_size").read_text())
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with _AREAS.open() as lines:
        pages = list(_filled(lines, size))
    # One by one: the first that cannot be had would end the rest.
    return sum(madvise(page, size, _COLLAPSE) == 0 for page in pages)


def _filled(lines: Iterable[str], size: int) -> Iterator[int]:
    """The addresses of pages of ``size`` in areas that are more than half in use: a stack's first page is not worth it."""
    begin = end = 0
    for line in lines:
        if area := _ANONYMOUS.fullmatch(line):
            begin, end = int(area[1], 16), int(area[2], 16)
        elif line.startswith("Rss:") and end:
            if int(line.split()[1]) * 1024 * 2 > end - begin:
                first = -(-begin // size) * size
                yield from range(first, end - size + 1, size)
            begin = end = 0
