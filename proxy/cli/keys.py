"""session-proxy keys: the tenants' API keys. Works beside a running server."""

import argparse
import asyncio
import getpass
import secrets
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from proxy.cli import settings
from proxy.errors import BadRequest
from proxy.services import epoch_ms
from proxy.store import keys, sqlite
from proxy.store.database import Database


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key; it is shown once")
    create.add_argument("--tenant", required=True, help="whose sessions the key reaches")
    create.add_argument("--role", choices=("user", "admin"), default="user")
    create.set_defaults(work=lambda db, args: _create(db, args.tenant, args.role))
    actions.add_parser("list", help="show the keys").set_defaults(work=lambda db, _args: _list(db))
    revoke = actions.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", help="the key's id, as list shows it")
    revoke.set_defaults(work=lambda db, args: _revoke(db, args.id))
    rebind = actions.add_parser("rebind", help="auth.mode passthrough: move sessions to a rotated upstream key")
    rebind.set_defaults(work=lambda db, _args: _rebind(db))


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    asyncio.run(_with(config.storage.url, lambda db: args.work(db, args)))
    return 0


async def _with(url: str, work: Callable[[Database], Awaitable[None]]) -> None:
    db = sqlite.opened(url, own=False)
    try:
        await work(db)
    finally:
        await db.close()


async def _create(db: Database, tenant: str, role: str) -> None:
    key = "sp-" + secrets.token_urlsafe(32)
    name = await keys.create(db, tenant, role, key.encode(), epoch_ms())
    print(key)
    print(f"key {name} of tenant {tenant} ({role}); it is shown only now", file=sys.stderr)


async def _list(db: Database) -> None:
    print(f"{'id':<16} {'tenant':<24} {'role':<6} {'created':<20} state")
    for key in await keys.listed(db):
        state = "live" if key.revoked_at is None else f"revoked {_date(key.revoked_at)}"
        print(f"{key.id:<16} {key.tenant:<24} {key.role:<6} {_date(key.created_at):<20} {state}")


async def _revoke(db: Database, name: str) -> None:
    await keys.revoke(db, name, epoch_ms())
    print(f"revoked {name}")


async def _rebind(db: Database) -> None:
    """Reads both keys from the terminal or, one a line, from stdin: a command line is visible to others."""
    old, new = (_secret("old key: "), _secret("new key: "))
    if not old or not new:
        raise BadRequest("give the old key and the new key, one a line", param="keys")
    await keys.rebind(db, old.encode(), new.encode())
    print("the sessions belong to the new key")


def _secret(prompt: str) -> str:
    return (getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()).strip()


def _date(epoch: int) -> str:
    return datetime.fromtimestamp(epoch / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
