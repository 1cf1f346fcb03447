"""python -m bench: run the cases, print a table. Exit code 1 only where a case could not run."""

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

from bench import options, process, report, servers
from bench.cases import CASES
from bench.lab import Lab
from bench.process import Failed
from bench.report import Row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the proxy beside two yardsticks.")
    options.add(parser)
    args = parser.parse_args()
    lacks = missing()
    if lacks is not None:
        note(lacks)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    about = report.surroundings()
    pair = process.cores()
    about["pinned"] = pair is not None
    if pair is None:
        note("one core only: nothing is pinned, so the load competes with what is measured")
    else:
        os.sched_setaffinity(0, pair[1])
    rows, failed = run(args)
    about["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
    print(report.table(rows))
    print("\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    if args.quick:
        print("--quick: these numbers show that the suite works; do not quote them")
    if args.json is not None:
        report.write(args.json, rows, about)
        print(f"written: {args.json}")
    return 1 if failed else 0


def run(args: argparse.Namespace) -> tuple[list[Row], int]:
    """All chosen cases; what could not run is said and counted."""
    rows: list[Row] = []
    failed = 0
    for name in args.only:
        note(f"{name} ...")
        begin = time.monotonic()
        try:
            rows += case(name, args)
        except Failed as exc:
            failed += 1
            note(f"{name} could not run: {exc}")
        note(f"{name}: {time.monotonic() - begin:.0f} s")
    return rows, failed


def case(name: str, args: argparse.Namespace) -> list[Row]:
    """One case, with a load generator and a mock model server of its own."""
    rounds = args.rounds or (2 if args.quick else 5)
    with servers.directory() as home, servers.mock(home) as mock, servers.load(home) as load:
        rows = CASES[name](Lab(load, mock, rounds, args.quick, args.soak_requests, args.locomo))
        for sample in load.total.samples:
            note(f"  failed request: {sample}")
        if load.total.requests:
            rows.append(Row(name, "failed requests", load.total.errors, f"of {load.total.requests:,}", target=0))
        return rows


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def missing() -> str | None:
    """What this machine lacks, or None."""
    if not Path("/proc/self/stat").exists():
        return "the benchmark reads CPU time and memory from /proc and so runs on Linux only"
    if importlib.util.find_spec("aiohttp") is None:
        return 'the yardstick needs aiohttp: pip install "session-proxy[dev]"'
    return None


if __name__ == "__main__":
    sys.exit(main())
