"""session-proxy chat: a terminal chat against a running proxy. It starts none."""

import argparse
import os

from proxy.cli.chatting.address import DEFAULT_URL, KEY, VENDORS_KEY, key_for


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", metavar="ID", help="go on with this session, or begin it (default: a new one)")
    parser.add_argument("--model", metavar="M", help="model to talk to (default: the session's, else the proxy's)")
    parser.add_argument("--url", metavar="U", default=DEFAULT_URL, help=f"where the proxy is (default: {DEFAULT_URL})")
    also = f"or, for a proxy on this machine, {VENDORS_KEY}"
    parser.add_argument("--key", metavar="K", help=f"the proxy's API key; better in {KEY} ({also})")


def run(args: argparse.Namespace) -> int:
    from proxy.cli.chatting import loop  # rich takes a tenth of a second, which the other commands need not pay

    key = args.key or key_for(args.url, os.environ)
    return loop.run(loop.Wish(url=args.url, session=args.session, model=args.model, key=key))
