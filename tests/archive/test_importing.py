"""Importing: sessions wholly or not at all, what is there stays, and what comes in works like what was made here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.archive.importing import Outcome
from proxy.recall import search
from proxy.resources import Owner, Page
from proxy.store import docs, history, members, sessions, settings, tools
from proxy.store.database import Database
from proxy.types import Scope
from tests.archive.stores import (
    exported,
    fill,
    imported,
    opened,
    result,
    rows,
    said,
    says,
    turn,
    user,
)
from tests.inprocess import Ask, Model, begun, services, stored
from tests.store import making
from tests.store.saying import ME, find

pytestmark = pytest.mark.anyio

TRIP = "11111111-1111-4111-8111-111111111110"
PAGE = Page()


def problems(told: Sequence[Outcome]) -> list[str | None]:
    return [one.problem for one in told]


def edited(data: bytes, kind: str, **fields: Any) -> bytes:
    """The lines with these fields in the first line of a kind."""
    lines = [json.loads(line) for line in data.splitlines()]
    next(line for line in lines if line["type"] == kind).update(fields)
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def only(data: bytes, *kinds: str) -> bytes:
    return b"".join(line + b"\n" for line in data.split(b"\n") if line and json.loads(line)["type"] not in kinds)


def sent_to(model: Model) -> list[dict[str, Any]]:
    return model.requests[-1]["messages"]


# --- what comes in works ---


async def test_lists_filters_and_searches_find_what_came_in(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        await imported(other, await exported(db))
        agent = await members.find(other, ME, "agent", "agent-1")
        for where in ([], [("agent", str(agent.id))], [("m:case", "7")], [("m:tags", "null")]):
            found = await settings.page(other, ME, where, PAGE)
            assert len(found) == (2 if where else 4)
        assert (await settings.find(other, ME, "trip")).agents == ("agent-2", "agent-1")
        assert [one.uuid for one in await members.page(other, ME, "user", [("m:plan", "free")], PAGE)] == ["user-1"]
        owner = Owner("agent", agent.id, agent.uuid)
        assert [hit.doc for hit in await search.text(other, ME, [owner], "to France", 5, [])] == ["doc-1"]
        session = await settings.find(other, ME, TRIP)
        own = Owner("session", session.id, session.uuid)
        hits = await search.text(other, ME, [own], "which gate?", 5, [])
        assert [(hit.doc, hit.owner) for hit in hits][:1] == [("doc-30", own)]
        assert [tool.name for tool in await tools.every(other, ME, [own, owner])] == ["look", "clock"]
        assert [doc.uuid for doc in await docs.page(other, ME, owner, [("m:lang", "en")], PAGE)] == ["doc-1"]


async def test_a_session_goes_on_and_what_was_sent_before_is_recognised(tmp_path: Path) -> None:
    model = Model()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with services(tmp_path / "a", model) as here, services(tmp_path / "b", model) as there:
        call = says(None, "c1")
        for sent, reply in (([user("one")], call), ([result("c1", "r")], says("1")), ([user("two")], says("2"))):
            model.says = reply
            await begun(here, Ask(sent))
        await imported(there.db, await exported(here.db))
        model.says = says("3")
        resent = [user("one"), call, result("c1", "r"), says("1"), user("two"), says("2"), user("three")]
        begin = await begun(there, Ask(resent))
        assert (begin.number, begin.branch) == (4, 1)
        assert [one["content"] for one in sent_to(model)] == ["one", None, "r", "1", "two", "2", "three"]
        begin = await begun(there, Ask([*resent[:4], user("other")]))
        assert (begin.number, begin.branch) == (5, 2)
        await begun(there, Ask([user("delta")]))
        assert [json.loads(raw)["content"] for _, raw, _ in await stored(there)][-4:] == ["other", "3", "delta", "3"]


async def test_what_was_imported_is_deleted_like_anything_else(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        empty = await making.everything(other)
        await fill(db)
        await imported(other, await exported(db))
        for found in await settings.page(other, ME, [], PAGE):
            await sessions.delete(other, ME, found.id)
        for kind in ("agent", "user"):
            for member in await members.page(other, ME, kind, [], PAGE):
                await members.delete(other, ME, member.kind, member.uuid)
        assert await making.everything(other) == empty


# --- what is there already ---


async def test_a_session_that_is_there_stays_and_the_others_come_in(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        data = await exported(db)
        await turn(other, "plain", said(user("mine")))
        mine = await exported(other, ME, "plain")
        told = await imported(other, data)
        assert [one.name for one in told if one.problem] == ["plain"]
        assert problems(told).count("there is a session of this name or id already; it stays as it is") == 1
        assert await exported(other, ME, "plain") == mine
        assert await exported(other, ME, "trip", TRIP[:-1] + "1", "cleared") == await exported(
            db, ME, "trip", TRIP[:-1] + "1", "cleared"
        )


async def test_nothing_comes_in_twice(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        await fill(db)
        before = await rows(db)
        told = await imported(db, await exported(db))
        assert None not in problems(told)
        assert [kept for one in told for kept in one.kept] == ["agent agent-2", "agent agent-1", "user user-1"]
        assert await rows(db) == before


async def test_an_agent_that_is_there_stays_as_it_is_with_what_it_has(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        mine = await making.member(other, "agent-1", name="mine", now=5)
        (told,) = await imported(other, await exported(db, ME, "trip"))
        assert (told.problem, told.kept) == (None, ("agent agent-1",))
        assert await members.find(other, ME, "agent", "agent-1") == mine
        assert await tools.every(other, ME, [making.owner(mine)]) == []
        assert await docs.page(other, ME, making.owner(mine), [], PAGE) == []
        assert (await settings.find(other, ME, "trip")).agents == ("agent-2", "agent-1")


async def test_a_doc_or_tool_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        await fill(db)
        copy = edited(await exported(db, ME, "trip"), "session", uuid="copy", name="copy")
        copy = copy.replace(b'"owner": "%b"' % TRIP.encode(), b'"owner": "copy"')
        copy = copy.replace(b'{"type": "end", "uuid": "%b"}' % TRIP.encode(), b'{"type": "end", "uuid": "copy"}')
        (told,) = await imported(db, copy)
        assert told.problem is None
        assert told.kept == ("tool tool-20", "doc doc-30", "agent agent-2", "agent agent-1", "user user-1")
        assert (await docs.find(db, ME, "doc-30")).title == "Ticket"
        assert len(await history.read(db, ME, (await find(db, "copy"))[0].id, [(1, 1, 9)], 9)) == 7


async def test_agents_of_a_session_that_stays_are_there_for_the_sessions_after_it(tmp_path: Path) -> None:
    """They stand in a file once."""
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        await turn(other, "trip", said(user("mine")))
        told = await imported(other, await exported(db))
        assert [one.uuid for one in told if one.problem] == [TRIP]
        assert (await settings.find(other, ME, TRIP[:-1] + "1")).agents == ("agent-2", "agent-1")


async def test_another_tenant_may_have_the_same_and_sees_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        await fill(db)
        before = await rows(db)
        new = Scope(-1, name="new")
        assert problems(await imported(db, await exported(db), new)) == [None] * 4
        assert await rows(db) == before
        numbers = await db.all("SELECT id FROM tenants WHERE name = 'new'")
        assert await rows(db, Scope(numbers[0][0])) == before


# --- what is wrong ---


async def test_a_bad_line_leaves_its_session_out_wholly_and_the_others_come_in(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        data = await exported(db)
        lines = data.splitlines()
        starts = [n for n, line in enumerate(lines) if line.startswith(b'{"type":"session"')]
        first = json.loads(lines[starts[1]])
        wrong = starts[1] + 5
        lines[wrong] = lines[wrong][:-3]
        told = await imported(other, b"\n".join(lines))
        assert [one.problem is None for one in told] == [True, False, True, True]
        assert (told[1].problem or "").startswith(f"line {wrong + 1}: it is not JSON")
        assert told[1].uuid == first["uuid"]
        left = [uuid for one in told if (uuid := one.uuid) != first["uuid"]]
        assert sorted(row[0] for row in await other.all("SELECT uuid FROM sessions")) == sorted(left)


async def test_a_bad_line_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        data = await exported(db, ME, "trip")
        empty = await making.everything(other)
        lines = data.splitlines(keepends=True)
        for cut in range(1, len(lines)):
            (told,) = await imported(other, b"".join(lines[:cut]), Scope(-1, name="new"))
            assert (told.problem or "").startswith(f"line {cut}: the session is not complete")
        (told,) = await imported(other, data[:-20])
        assert (told.problem or "").startswith(f"line {len(lines)}: it is not JSON")
        assert await making.everything(other) == empty


@pytest.mark.parametrize("at", ["entry", "end", "branch", "doc of the last user", "session"])
async def test_agents_of_a_session_that_is_left_out_come_in_with_the_next_that_needs_them(
    tmp_path: Path, at: str
) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        lines = (await exported(db, ME, "trip", TRIP[:-1] + "1")).split(b"\n")
        mark = b'"doc-2"' if at.startswith("doc") else b'{"type":"%b"' % at.encode()
        wrong = next(n for n, line in enumerate(lines) if mark in line)
        lines[wrong] = lines[wrong][:-1] + b',"x":1}'
        told = await imported(other, b"\n".join(lines))
        assert "contains unknown field 'x'" in (told[0].problem or "")
        if at in ("entry", "end", "branch"):
            assert told[1].problem is None
            assert await exported(other) == await exported(db, ME, TRIP[:-1] + "1")
        else:
            assert "is neither in the file nor in the store" in (told[1].problem or "")
            assert await other.all("SELECT 1 FROM members, docs, tools") == []


async def test_a_session_whose_beginning_is_cut_off_is_told_and_the_next_one_comes_in(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await turn(db, "one", said(user("q")))
        await turn(db, "two", said(user("q")))
        data = await exported(db)
        told = await imported(other, data[data.index(b"\n") + 1 :])
        assert problems(told) == ["line 1: a session begins with its `session` line, not with `branch`", None]
        assert (await find(other, "two"))[1].head == 1


@pytest.mark.parametrize("kinds", [("agent",), ("user", "doc", "tool")])
async def test_a_participant_who_is_nowhere_leaves_the_session_out(tmp_path: Path, kinds: Sequence[str]) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        empty = await making.everything(other)
        data = only(await exported(db, ME, "trip"), "doc", "tool", *kinds)
        (told,) = await imported(other, data, Scope(-1, name="new"))
        name = "agent agent-2" if "agent" in kinds else "user user-1"
        assert told.problem == f"the {name} is neither in the file nor in the store"
        assert await making.everything(other) == empty


async def test_a_doc_that_stands_twice_leaves_the_session_out(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        lines = (await exported(db, ME, "trip")).splitlines(keepends=True)
        (at,) = [n for n, line in enumerate(lines) if b'"doc-30"' in line]
        lines.insert(at, lines[at].replace(b"doc-30", b"doc-40"))
        (told,) = await imported(other, b"".join(lines))
        assert "A doc with this content already exists" in (told.problem or "")
        assert await other.all("SELECT 1 FROM sessions") == []


# --- other files ---


LIST = json.dumps([user("q"), says("a")])
CHAT = json.dumps({"messages": [user("q"), says("a")], "tools": []})
HISTORY = {"session_id": TRIP.upper(), "entries": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}


async def texts(db: Database, uuid: str) -> list[str]:
    told = await history.read(db, ME, (await find(db, uuid))[0].id, [(1, 1, 9)], 9)
    return [json.loads(one.raw)["content"] for one in told]


@pytest.mark.parametrize(
    ("file", "count"),
    [
        (LIST, 1), (json.dumps(json.loads(LIST), indent=2), 1), ("\ufeff" + LIST, 1), (f"\n\n  {LIST}\n", 1),
        (CHAT, 1), (f"{CHAT}\n{CHAT}\n\n{CHAT}", 3), (json.dumps(json.loads(CHAT), indent=1), 1),
        (f"{CHAT}\r\n{LIST}\r\n", 2),
        (f"{CHAT}\n{CHAT}".replace('"q"', r'"q\ud83d"'), 2), (LIST.replace('"a"', r'"\udf88"'), 1),
    ],
)  # fmt: skip
async def test_lists_of_messages_are_sessions_of_their_own(tmp_path: Path, file: str, count: int) -> None:
    async with opened(tmp_path / "a.db") as db:
        told = await imported(db, file.encode())
        assert [(one.problem, one.name, one.entries) for one in told] == [(None, None, 2)] * count
        assert len({one.uuid for one in told}) == count
        found = [await texts(db, one.uuid) for one in told]
        asked, answered = "q\ufffd" if "ud83d" in file else "q", "\ufffd" if "udf88" in file else "a"
        assert found == [[asked, answered]] * count


async def test_a_list_gets_the_name_that_is_asked_for_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        told = await imported(db, f"{CHAT}\n{CHAT}".encode(), name="boat")
        assert problems(told) == [None, "there is a session of this name or id already; it stays as it is"]
        assert await texts(db, "boat") == ["q", "a"]


@pytest.mark.parametrize("indent", [None, 2])
async def test_a_history_keeps_the_id_of_its_session(tmp_path: Path, indent: int | None) -> None:
    async with opened(tmp_path / "a.db") as db:
        (told,) = await imported(db, json.dumps(HISTORY, indent=indent).encode(), name="boat")
        assert (told.uuid, told.name, told.problem) == (TRIP, "boat", None)
        assert await texts(db, TRIP) == await texts(db, "boat") == ["q"]
        (told,) = await imported(db, json.dumps(HISTORY | {"session_id": "no uuid"}).encode())
        assert (told.problem, len(told.uuid)) == (None, 36)
        assert told.uuid != TRIP


async def test_an_export_has_names_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await turn(db, "s", said(user("q")))
        told = await imported(other, await exported(db), name="boat")
        assert problems(told) == ["these sessions have names of their own; leave --session out"]
        assert await other.all("SELECT 1 FROM sessions") == []


NEITHER = "it is neither an export of session-proxy, nor a list of messages, nor a history of the Sessions API"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", ["there is nothing in it"]), (b"\n \n", ["there is nothing in it"]),
        (b"{}", [f"line 1: {NEITHER}"]), (b"\n5", ["line 2: expected 'object', got 'int'"]),
        (b"hello\nworld", ["line 1: it is not JSON"]), (b"\xff\xfe", ["line 1: it is not JSON"]),
        (b'{"prompt": 1}\n' + CHAT.encode(), [f"line 1: {NEITHER}", None]),
        (CHAT.encode() + b"\n{bad\n" + CHAT.encode(), [None, "line 2: it is not JSON", None]),
        (b'{"messages": 5}', ["line 1: messages must be a list of message objects"]),
        (b'{"messages": null}', ["line 1: messages must be a list of message objects"]),
        (b'{"entries": 5}', ["line 1: expected 'array | null', got 'int' - at '$.entries'"]),
        (b'{"type": "fish"}', ["line 1: invalid value 'fish'"]), (b'{"type":"session', ["line 1: it is not JSON"]),
        (b'{"type": "chat", "messages": [{"role": "user"}]}', [None]),
        (b'[{"role": "user"}, {"role": 5}]', ["line 1: messages[1].role must be one of"]),
        (b'[{"role": "user"},\n{"role": "x"}', ["line 1: it is not JSON"]),
    ],
)  # fmt: skip
async def test_a_file_that_is_something_else_is_told(tmp_path: Path, file: bytes, said: list[str | None]) -> None:
    async with opened(tmp_path / "a.db") as db:
        told = problems(await imported(db, file))
        assert [one and one[: len(want or "")] for one, want in zip(told, said, strict=True)] == said
