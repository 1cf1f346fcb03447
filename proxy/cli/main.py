"""session-proxy: one command, one file for each subcommand.

Exit codes: 0 ok, 1 failed, 2 bad usage or bad configuration. Results on stdout, notes on stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from proxy import __version__
from proxy.cli import bench, chat, demo, doctor, exporting, importing, keys, migrate, serve
from proxy.errors import BadConfig, ProxyError

COMMANDS = {
    "serve": (serve, "run the proxy"),
    "demo": (demo, "hold a remembered conversation with a small local model"),
    "chat": (chat, "chat in the terminal with a running proxy"),
    "keys": (keys, "create, list and revoke API keys"),
    "doctor": (doctor, "check what a server needs, and say how to fix it"),
    "export": (exporting, "write sessions as JSON Lines"),
    "import": (importing, "read sessions from exports, message lists or Julep histories"),
    "migrate": (migrate, "apply schema migrations"),
    "bench": (bench, "run the benchmark suite"),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="session-proxy", description="An OpenAI-compatible proxy that remembers.")
    parser.add_argument("--version", action="version", version=f"session-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (command, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary)
        command.add(sub)
        sub.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except BadConfig as exc:
        print(f"session-proxy: {exc}", file=sys.stderr)
        return 2
    except ProxyError as exc:
        print(f"session-proxy: {exc.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
