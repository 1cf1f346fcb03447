"""session-proxy chat: a terminal chat against a running proxy. It starts none."""

import argparse
import os

DEFAULT_URL = "http://127.0.0.1:8080"
KEYS = ("SESSION_PROXY_API_KEY", "OPENAI_API_KEY")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", metavar="ID", help="go on with this session, or begin it (default: a new one)")
    parser.add_argument("--model", metavar="M", help="model to talk to (default: the session's, else the proxy's)")
    parser.add_argument("--url", metavar="U", default=DEFAULT_URL, help=f"where the proxy is (default: {DEFAULT_URL})")
    parser.add_argument("--key", metavar="K", help=f"the proxy's API key; better in {KEYS[0]} (or {KEYS[1]})")


def run(args: argparse.Namespace) -> int:
    from proxy.cli.chatting import loop  # rich takes a tenth of a second, which the other commands need not pay

    key = args.key or next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
    return loop.run(loop.Wish(url=args.url, session=args.session, model=args.model, key=key))
