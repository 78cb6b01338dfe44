"""A process that serves has its memory in order, and says nothing where the machine does not let it."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from agentsvc import process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="large pages are asked for as Linux has them")

SIZE = 2 << 20

# Memory that is in use, and whether the kernel then says that large pages hold it.
FILL = """
from agentsvc import process
kept = [bytes(1000) + bytes([n % 256]) for n in range(50_000)]
pages = process.use_large_pages()
rollup = open("/proc/self/smaps_rollup").read()
print(pages, rollup.split("AnonHugePages:")[1].split()[0])
assert all(len(piece) == 1001 and piece[-1] == n % 256 for n, piece in enumerate(kept))
"""


def possible() -> bool:
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    release = tuple(int(number) for number in platform.release().split(".")[:2])
    return switch.exists() and "[never]" not in switch.read_text() and release >= (6, 1)


def test_memory_in_use_moves_into_large_pages_and_stays_what_it_was() -> None:
    told = subprocess.run([sys.executable, "-c", FILL], check=True, capture_output=True, text=True).stdout.split()
    pages, kilobytes = int(told[0]), int(told[1])
    assert kilobytes >= pages * SIZE // 1024
    assert (pages > 0) is possible()


def smaps(*areas: tuple[str, int]) -> list[str]:
    return [line for head, rss in areas for line in (head + "\n", "Size: 1 kB\n", f"Rss:      {rss} kB\n")]


def test_only_areas_of_our_own_that_are_in_use_are_moved() -> None:
    six = "7f0000100000-7f0000700000"  # three large pages begin in it, two of them whole
    found = list(
        process._filled(
            smaps(
                (f"{six} rw-p 00000000 00:00 0 ", 6144),
                ("7f1000000000-7f1000800000 rw-p 00000000 00:00 0 ", 64),  # a stack: room for much, and hardly used
                ("7f2000000000-7f2000400000 r--p 00000000 00:00 0 ", 4096),
                ("7f3000000000-7f3000400000 rw-p 00000000 08:01 77    /lib/libpython.so", 4096),
                ("7f4000000000-7f4000400000 rw-s 00000000 00:01 5   /dev/zero (deleted)", 4096),
                ("55d000000000-55d000200000 rw-p 00000000 00:00 0                          [heap]", 2048),
            ),
            SIZE,
        )
    )
    assert found == [0x7F0000200000, 0x7F0000400000, 0x55D000000000]


@pytest.mark.parametrize("switch", ["always madvise [never]\n", None])
def test_an_operator_who_wants_none_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str | None
) -> None:
    if switch is not None:
        (tmp_path / "enabled").write_text(switch)
    monkeypatch.setattr(process, "_LARGE_PAGES", tmp_path)
    monkeypatch.setattr(process, "_AREAS", tmp_path / "never read")
    monkeypatch.setattr(process, "_spare_the_collector", lambda: None)
    process.settle()  # no file, or a word against it: nothing happens, and nothing is raised
    if switch is not None:
        assert process.use_large_pages() == 0


def test_what_is_there_is_no_longer_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "use_large_pages", lambda: 0)
    thresholds = gc.get_threshold()
    try:
        process.settle()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() > thresholds
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
