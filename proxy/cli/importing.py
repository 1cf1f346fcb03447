"""session-proxy import: exports, OpenAI message lists and Julep histories. Works beside a running server."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from proxy.app import Counter
from proxy.archive import importing
from proxy.archive.importing import Intake, Outcome
from proxy.archive.lines import Name
from proxy.cli import settings
from proxy.config import Config
from proxy.edge import body
from proxy.services import epoch_ms, new_id
from proxy.store import keys, sqlite
from proxy.store.database import Database
from proxy.types import Scope

NEW = -1
"""The number of a tenant that is made with its first session: no row has it."""


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    parser.add_argument(
        "--tenant", default="default", help="whose sessions they become; made if new (default: default)"
    )
    parser.add_argument("--session", type=_name, metavar="NAME", help="the name of a session that comes without one")
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to read; - is stdin")


def _name(text: str) -> str:
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError("a session's name has 1 to 256 printable ASCII characters") from None


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    return asyncio.run(_import(config, args))


async def _import(config: Config, args: argparse.Namespace) -> int:
    db = sqlite.opened(config.storage.url, own=False)
    try:
        into = await _intake(config, db, args)
        failed = [await _file(into, name) for name in args.files]
    finally:
        await db.close()
    return 1 if sum(failed) else 0


async def _intake(config: Config, db: Database, args: argparse.Namespace) -> Intake:
    def check(raw: bytes) -> list[tuple[bytes, dict]]:
        fields = body.fields(b'{"messages":' + raw + b"}")
        return body.messages(fields, sys.maxsize, config.limits.nesting)

    scope = await keys.named(db, args.tenant) or Scope(NEW, name=args.tenant)
    return Intake(db, scope, args.session, check, body.cleaned, Counter(), new_id, epoch_ms)


async def _file(into: Intake, name: str) -> int:
    """How many sessions of the file are not in the store."""
    try:
        opened = _opened(name)
    except OSError as exc:
        print(f"session-proxy: {name} cannot be read: {exc.strerror}", file=sys.stderr)
        return 1
    with opened as file:
        return await _take(into, "stdin" if name == "-" else name, file)


def _opened(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb")


async def _take(into: Intake, name: str, file: Iterable[bytes]) -> int:
    made = failed = 0
    async for told in importing.take(into, file):
        made += told.problem is None
        failed += told.problem is not None
        _tell(name, told)
    print(f"session-proxy: {name}: imported {made}, left out {failed}", file=sys.stderr)
    return failed


def _tell(file: str, told: Outcome) -> None:
    """Its id and name on stdout; why it is not there, and what was there already, on stderr."""
    called = told.name or told.uuid
    if told.problem is None:
        print(told.uuid if told.name is None else f"{told.uuid} {told.name}")
    else:
        place = f"session {called}: " if called else ""
        print(f"session-proxy: {file}: {place}{told.problem}", file=sys.stderr)
    for thing in told.kept:
        print(f"session-proxy: {file}: {thing} is there already and stays as it is", file=sys.stderr)
