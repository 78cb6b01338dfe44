"""Fails when the service has become slower, beside the bare pipeline, than the stored run says.

    python -m bench.compare                    measures again, as `python -m bench.run` does, against docs/bench.json
    python -m bench.compare --with NEW.json    reads a run made before
    python -m bench.compare --stored OLD.json  against another run

A ratio has become worse when it is more than 10 % worse than the stored median and outside the stored spread as well.
A figure that cannot be judged any more, missing or invalid, fails too: silence is no proof.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import msgspec

from bench.figures import FIGURES, Better, Figure
from bench.processes import BenchError, stop_in_order
from bench.report import Result, Row, Spread
from bench.run import DOCS, measure
from bench.scenarios import FULL

TOLERANCE: Final = 0.10


def limit(figure: Figure, stored: Spread) -> float:
    """The worst ratio that still passes."""
    if figure.better is Better.LOWER:
        return max(stored.median * (1 + TOLERANCE), stored.max)
    return min(stored.median * (1 - TOLERANCE), stored.min)


def compare(stored: Result, new: Result) -> list[str]:
    """One line for every figure that became worse or cannot be judged; empty when all is well.

    What the stored run itself could not say counts for nothing.
    """
    found = {row.figure: row for row in new.rows}
    lines = [_complaint(row, found.get(row.figure)) for row in stored.rows if row.valid and row.ratio]
    return [line for line in lines if line]


def _complaint(stored: Row, new: Row | None) -> str:
    figure = FIGURES[stored.figure]
    if stored.ratio is None:
        return ""
    if new is None or new.ratio is None:
        return f"{figure.title}: not measured"
    if not new.valid:
        return f"{figure.title}: cannot be judged, load client idle for {new.idle:.0%}, others on a core for {new.foreign:.0%}"
    bound, ratio = limit(figure, stored.ratio), new.ratio.median
    if figure.meets(bound, ratio):
        return ""
    return f"{figure.title}: {ratio:.2f} of the bare pipeline, stored {stored.ratio.median:.2f}, limit {bound:.2f}"


def _load(path: Path) -> Result:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchError(f"{path} holds no result of the bench: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="the bench against its stored run")
    parser.add_argument("--stored", type=Path, default=DOCS / "bench.json", help="the run to hold against")
    parser.add_argument("--with", dest="new", type=Path, help="a run made before, instead of measuring now")
    arguments = parser.parse_args()
    stop_in_order()
    try:
        stored = _load(arguments.stored)
        complaints = compare(stored, _load(arguments.new) if arguments.new else measure(FULL))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    if complaints:
        sys.exit("\n".join(complaints))
    print(f"no ratio is more than {TOLERANCE:.0%} worse than in {arguments.stored}, commit {stored.commit}")


if __name__ == "__main__":
    main()
