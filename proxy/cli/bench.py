"""session-proxy bench: the benchmark suite, in a process of its own so that nothing of the command is measured."""

import argparse
import subprocess
import sys

from bench import options


def add(parser: argparse.ArgumentParser) -> None:
    options.add(parser)


def run(args: argparse.Namespace) -> int:
    return subprocess.run([sys.executable, "-m", "bench", *options.argv(args)], check=False).returncode
