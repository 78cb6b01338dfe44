"""Measures agentsvc against the bare pipeline and writes what came out.

    python -m bench.run                     everything, about five minutes, into docs/
    python -m bench.run --quick             whether the bench works, under a minute, printed only
    python -m bench.run --scenario flood    one scenario or several, printed only
    python -m bench.run --out FOLDER        JSON, table and chart into that folder

All targets take turns inside every repetition, so a ratio is one of neighbours in time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from bench import report, targets
from bench.chart import chart
from bench.processes import ROOT, BenchError, Cores, raise_file_limit, stop_in_order
from bench.report import Result, Sample
from bench.scenarios import FULL, QUICK, SCENARIOS, Bench, Scale, Starter

DOCS: Final = ROOT / "docs"
BARE_ONLY: Final = "there is no service to start yet: only the bare pipeline is measured"


def measure(scale: Scale, names: Sequence[str] = tuple(SCENARIOS)) -> Result:
    """Runs the named scenarios, the service among the targets if there is one.

    Raises:
        BenchError: a process did not start, or an answer was not what the upstream had sent.
    """
    raise_file_limit()
    return report.result(_samples(scale, names), quick=scale is QUICK, commit=_commit())


def _samples(scale: Scale, names: Sequence[str]) -> Iterator[Sample]:
    cores = Cores.available()
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.upstream(cores))
        starters: list[Starter] = [lambda: targets.bare_pipeline(cores, upstream)]
        if targets.service_exists():
            starters.append(lambda: targets.service(cores, upstream))
        else:
            print(BARE_ONLY, file=sys.stderr)
        ways = tuple(stack.enter_context(start()) for start in starters)
        bench = Bench(cores, scale, upstream, tuple(starters), ways)
        for repetition in range(scale.repetitions):
            for name in names:
                print(f"repetition {repetition + 1} of {scale.repetitions}: {name}", file=sys.stderr)
                yield from SCENARIOS[name](bench)
            bench = bench.turned()


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "agentsvc", "bench")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")


def write(result: Result, folder: Path) -> None:
    """bench.json, bench.md and bench.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    (folder / "bench.md").write_text(report.page(result))
    (folder / "bench.svg").write_text(chart(result))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="agentsvc beside the bare pipeline")
    parser.add_argument("--quick", action="store_true", help="a short form that tells whether the bench works")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated")
    parser.add_argument("--out", type=Path, help="folder for bench.json, bench.md and bench.svg")
    arguments = parser.parse_args()
    stop_in_order()
    try:
        result = measure(QUICK if arguments.quick else FULL, arguments.scenario or tuple(SCENARIOS))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    print(report.table(result))
    whole = not arguments.quick and not arguments.scenario and targets.service_exists()
    if folder := arguments.out or (DOCS if whole else None):
        write(result, folder)
        print(f"written to {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
