"""The options of the benchmark, the same for `python -m bench` and `session-proxy bench`."""

import argparse
import os
from pathlib import Path

NAMES = ("stateless", "turn", "history", "stream", "start", "api", "context", "prefix", "hangup", "soak")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: shows that it works, not more")
    parser.add_argument("--only", type=names, default=NAMES, metavar="CASE,CASE", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values there")
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds of each comparison (5, with --quick 2)")
    parser.add_argument("--soak-requests", type=positive, default=50_000, metavar="N", help="requests of the soak case")
    parser.add_argument(
        "--locomo", type=Path, metavar="FILE", default=os.environ.get("BENCH_LOCOMO") or None,
        help="LoCoMo dialogues for the prefix case (else BENCH_LOCOMO, else generated ones)",
    )  # fmt: skip


def argv(args: argparse.Namespace) -> list[str]:
    """The parsed options as words again, for a process of its own."""
    words = ["--only", ",".join(args.only), "--soak-requests", str(args.soak_requests)]
    if args.quick:
        words.append("--quick")
    if args.json is not None:
        words += ["--json", str(args.json)]
    if args.locomo is not None:
        words += ["--locomo", str(args.locomo.absolute())]
    if args.rounds is not None:
        words += ["--rounds", str(args.rounds)]
    return words


def names(text: str) -> tuple[str, ...]:
    chosen = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in chosen:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"no case {name!r}; the cases are {', '.join(NAMES)}")
    return chosen


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
