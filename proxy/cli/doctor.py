"""session-proxy doctor: looks at everything a server needs, and says what to do about what is wrong.

Works beside a running server and without one: it reads, makes no file and changes no schema. Each upstream is asked for
one answer of a few tokens. Exit codes: 0 all ok or warnings, 1 something failed, 2 the configuration cannot be used.
"""

import argparse

from proxy.cli import settings


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--offline", action="store_true", help="ask nothing that is not on this machine")


def run(args: argparse.Namespace) -> int:
    from proxy.cli.checks import report  # what it imports takes a tenth of a second that `serve` need not pay

    return report.run(args)
