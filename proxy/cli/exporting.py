"""session-proxy export: sessions as JSON Lines, on stdout or in a file. Works beside a running server."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO

from proxy.archive import exporting
from proxy.cli import settings
from proxy.errors import BadConfig, NotFound, Unavailable
from proxy.store import keys, sessions, sqlite
from proxy.store.database import Database
from proxy.types import Scope


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    parser.add_argument("--tenant", default="default", help="whose sessions (default: default)")
    parser.add_argument(
        "--session", nargs="+", action="extend", default=[], metavar="NAME_OR_ID", help="these only (default: all)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: stdout)")


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    if not sqlite.file_of(config.storage.url).exists():  # opening it would make an empty one
        raise BadConfig(f"storage.url: there is no store at {config.storage.url}; run this where the server runs")
    try:
        written = asyncio.run(_export(config.storage.url, args))
    except BrokenPipeError:  # the reader has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        raise Unavailable(f"{args.output or 'stdout'} cannot be written: {exc.strerror}") from exc
    print(f"session-proxy: exported from tenant {args.tenant}: {written}", file=sys.stderr)
    return 0


async def _export(url: str, args: argparse.Namespace) -> int:
    db = sqlite.opened(url, own=False)
    try:
        scope = await keys.named(db, args.tenant)
        if scope is None:
            raise NotFound(f"there is no tenant {args.tenant}", param="tenant")
        asked = [await _number(db, scope, name) for name in args.session]
        with contextlib.ExitStack() as stack:
            out = sys.stdout.buffer if args.output is None else stack.enter_context(args.output.open("wb"))
            return await _write(db, scope, asked, out)
    finally:
        await db.close()


async def _number(db: Database, scope: Scope, name: str) -> int:
    found = await sessions.find(db, scope, name)
    if found is None:
        raise NotFound(f"there is no session {name}; nothing was exported", param="session")
    return found[0].id


async def _write(db: Database, scope: Scope, asked: Sequence[int], out: BinaryIO) -> int:
    """How many sessions were written."""
    known: set[int] = set()
    count = 0
    async for number in _once(asked) if asked else exporting.every(db, scope):
        pieces = 0
        async for piece in exporting.session(db, scope, number, known):
            out.write(piece)
            pieces += 1
        count += pieces > 0  # one that was deleted meanwhile has none
    out.flush()
    return count


async def _once(numbers: Sequence[int]) -> AsyncIterator[int]:
    """Each number once, as a session may be named twice."""
    for number in dict.fromkeys(numbers):
        yield number
