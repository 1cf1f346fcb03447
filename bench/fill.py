"""A store of many sessions, written straight into the file: made through the API, a million would take an hour.

Sessions are numbered from 1 and stand at even distances in time, the last one just now. Each has one of 50 agents and
metadata of three values: `customer` (10 sessions each), `plan` (4 of them), `channel` (5 of them).
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import apsw

from proxy.store import sqlite

AGENTS = 50
PLANS = ("free", "pro", "team", "company")
CHANNELS = ("web", "mail", "phone", "app", "shop")
APART_MS = 30_000
AT_ONCE = 100_000
"""Sessions in one transaction."""


@dataclass(frozen=True)
class Filled:
    """A store, how long it took to write, and how large it is."""

    sessions: int
    seconds: float
    bytes: int


def session_uuid(number: int) -> str:
    """Spread evenly, as random ones are."""
    return f"{_spread(number):08x}-0000-4000-8000-{number:012x}"


def agent_uuid(number: int) -> str:
    return f"{_spread(number):08x}-0000-4000-9000-{number:012x}"


def _spread(number: int) -> int:
    return number * 2654435761 & 0xFFFFFFFF


def fill(file: Path, sessions: int) -> Filled:
    """Makes the store with its agents and sessions. Without a journal: what fails is begun anew."""
    begin = time.monotonic()
    sqlite.migrate(file)
    connection = apsw.Connection(str(file))
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -250000", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        now = int(time.time() * 1000)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        indexes = [(str(name), str(sql)) for name, sql in rows]
        for name, _ in indexes:  # one that is made of all rows is sorted once
            connection.execute(f"DROP INDEX {name}")
        _agents(connection, now)
        for first in range(1, sessions + 1, AT_ONCE):
            _sessions(connection, first, min(first + AT_ONCE - 1, sessions), sessions, now)
        for _, sql in indexes:
            connection.execute(sql)
    finally:
        connection.close()
    return Filled(sessions, time.monotonic() - begin, file.stat().st_size)


def _agents(connection: apsw.Connection, now: int) -> None:
    with connection:
        for number in range(1, AGENTS + 1):
            body = json.dumps({"name": f"Agent {number}", "model": "bench"}).encode()
            connection.execute(
                """INSERT INTO members (id, tenant, kind, uuid, created_at, updated_at, body)
                   VALUES (?, 1, 'agent', ?, ?, ?, ?)""",
                (number, agent_uuid(number), now, now, body),
            )
            connection.execute("INSERT INTO facets VALUES (1, 'agent', ?, '*', '', ?, ?)", (number, now, now))


def _sessions(connection: apsw.Connection, first: int, last: int, count: int, now: int) -> None:
    numbers = {
        "first": first,
        "last": last,
        "count": count,
        "now": now,
        "apart": APART_MS,
        "agents": AGENTS,
        "customers": max(count // 10, 1),
        "plans": json.dumps(PLANS),
        "channels": json.dumps(CHANNELS),
    }
    with connection:
        connection.execute(MADE, numbers)
        for statement in SPREAD_OUT:
            connection.execute(statement)
        connection.execute("DROP TABLE made")


MADE = """
CREATE TEMP TABLE made AS
WITH RECURSIVE numbers (id) AS (SELECT :first UNION ALL SELECT id + 1 FROM numbers WHERE id < :last),
    spread (id, h, created) AS (SELECT id, id * 2654435761 & 0xffffffff, :now - (:count - id) * :apart FROM numbers)
SELECT id, printf('%08x-0000-4000-8000-%012x', h, id) AS uuid, id % :agents + 1 AS agent,
    printf('c-%06d', (h >> 4) % :customers) AS customer,
    :plans ->> printf('$[%d]', (h >> 9) % json_array_length(:plans)) AS plan,
    :channels ->> printf('$[%d]', (h >> 17) % json_array_length(:channels)) AS channel,
    created, min(created + h % 3600000, :now) AS updated
FROM spread
"""
SPREAD_OUT = (
    """INSERT INTO sessions (id, tenant, uuid, name, branch, branches, turns, created_at, updated_at, dressed)
       SELECT id, 1, uuid, NULL, 1, 1, 0, created, updated, 1 FROM made""",
    """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest, end_status, last_turn,
                             cut, cut_key, instructions, created_at)
       SELECT 1, id, 1, NULL, 0, 0, 0, x'', 'complete', 0, 0, '', NULL, created FROM made""",
    """INSERT INTO settings (session, tenant, body)
       SELECT id, 1, CAST(json_object('metadata', json_object('customer', customer, 'plan', plan, 'channel', channel))
                          AS BLOB) FROM made""",
    "INSERT INTO participants (tenant, session, kind, place, member) SELECT 1, id, 'agent', 1, agent FROM made",
    """INSERT INTO facets (tenant, kind, owner, key, value, created_at, updated_at)
       SELECT 1, 'session', id, f.column1, CASE f.column1 WHEN '*' THEN '' WHEN 'agent' THEN CAST(agent AS TEXT)
           WHEN 'm:channel' THEN channel WHEN 'm:customer' THEN customer ELSE plan END, created, updated
       FROM made CROSS JOIN (VALUES ('*'), ('agent'), ('m:channel'), ('m:customer'), ('m:plan')) f""",
)
