"""The history that a turn may send: as the last turn sent it, or from the store; and what of it other models get."""

import base64
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy import budget, past, recollect
from proxy.context.assemble import Limits
from proxy.context.transcript import CLEARED, Piece
from proxy.errors import ContextTooLong
from proxy.recollect import Found
from proxy.services import Services, Turn
from proxy.store import sessions
from proxy.types import Overflow
from tests.conversing import Upstream, ledgers, raw_messages, take, turn_of
from tests.inprocess import DEFAULT, Ask, Message, says, services, user, words

pytestmark = pytest.mark.anyio

TALK = ["one", "two", "three"]


async def found_by(svc: Services, *messages: Message, **options: Any) -> tuple[Turn, Found]:
    turn = turn_of(svc, Ask(messages), **options)
    return turn, await recollect.find(svc, turn, await sessions.find(svc.db, DEFAULT, "s"))


async def joined(svc: Services, *messages: Message, room: int | None = None, **options: Any) -> past.Past | None:
    turn, found = await found_by(svc, *messages, **options)
    limits = await budget.limits(svc, turn, found, None, budget.scale(svc, turn, budget.last(found)))
    return past.joined(svc, found, budget.cut_key(turn, limits), room, limits)


async def talked(svc: Services, texts: list[str] = TALK) -> None:
    for text in texts:
        await take(svc, Ask([user(text)]))


def call(id: str) -> Message:
    made = {"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


def result(id: str, text: str = "here") -> Message:
    return {"role": "tool", "tool_call_id": id, "content": text}


async def test_what_was_sent_last_is_taken_as_it_was(tmp_path: Path) -> None:
    up = Upstream()
    async with services(tmp_path, up) as svc:
        await talked(svc)
        kept = await joined(svc, user("four"))
        assert kept is not None
        (piece,) = kept.pieces
        assert (piece.role, piece.seq, piece.count, piece.tokens) == ("block", 1, 6, 30)
        await take(svc, Ask([user("four")]))
        assert up.bodies[-1].startswith(b'{"messages":[' + piece.raw + b",")


async def test_it_is_read_where_it_may_not_go_up_as_it_is(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream()) as svc:
        assert await joined(svc, user("no session")) is None
        await talked(svc)
        assert await joined(svc, user("x"), room=30) is not None
        assert await joined(svc, user("x"), room=29) is None, "it does not fit"
        assert await joined(svc, user("x"), room=40, overflow="summarize", token_budget=60) is None
        assert await joined(svc, user("x"), token_budget=60) is None, "another budget"
        assert await joined(svc, user("x"), fork=1) is None, "another end"
        last = [user("three"), {"role": "assistant", "content": "ok"}]
        assert await joined(svc, *last, user("x")) is not None, "the same conversation, sent again"


async def test_an_open_call_is_never_joined(tmp_path: Path) -> None:
    up = Upstream(script=[call("c1")])
    async with services(tmp_path, up) as svc:
        await talked(svc, ["look for it"])
        assert await joined(svc, result("c1")) is None
        assert await joined(svc, user("never mind")) is None
        await take(svc, Ask([result("c1")]))
        assert await joined(svc, user("thanks")) is None, "the turn that brought the result knows a part of the group"
        await take(svc, Ask([user("thanks")]))
        assert await joined(svc, user("bye")) is not None


async def test_what_was_joined_and_what_is_read_are_the_same_bytes(tmp_path: Path) -> None:
    up = Upstream(script=[says("a"), call("c1"), says("b"), {"role": "assistant", "content": "c", "audio": None}])
    new = [user("hi"), user("look"), result("c1"), user("grüße \U0001f600"), user("more")]
    async with services(tmp_path, up) as svc:
        for message in new:
            await take(svc, Ask([message]))
            svc.forwarded.put(1, 1, svc.forwarded.get(1, 1, 0, ""))  # as after a restart: nothing is kept
        read = list(up.bodies)
    folder = tmp_path / "kept"
    folder.mkdir()
    up.script, up.bodies = [says("a"), call("c1"), says("b"), {"role": "assistant", "content": "c", "audio": None}], []
    async with services(folder, up) as svc:
        for message in new:
            await take(svc, Ask([message]))
    assert up.bodies == read


async def test_the_newest_results_count_whole_and_older_ones_as_a_marker(tmp_path: Path) -> None:
    """What is read reaches back as far as clearing may make room."""
    up = Upstream()
    async with services(tmp_path, up, "context: {tool_result_clear_after: 1}") as svc:
        for n in range(4):
            up.script = [call(f"c{n}")]
            await take(svc, Ask([user(f"look {n}")]))
            await take(svc, Ask([result(f"c{n}", "found " * 100)]))
        turn, found = await found_by(svc, user("and now"))
        all_that_fits = Limits(300, "adaptive", 0, 0.5, results=1)
        read = await past.read(svc, turn, found, all_that_fits, words)
        assert (read.before, len(read.pieces)) == (0, 16)
        read = await past.read(svc, turn, found, Limits(300, "truncate", 0, 0.5), words)
        assert read.before > 0


def photo(n: int, size: int = 150_000) -> Message:
    data = base64.b64encode(Random(n).randbytes(size * 3 // 4)).decode()
    url = {"url": f"data:image/png;base64,{data}", "detail": "low"}
    return {"role": "user", "content": [{"type": "image_url", "image_url": url}, {"type": "text", "text": f"no. {n}"}]}


SMALL = "limits: {prompt_mb: 1}"


@pytest.mark.parametrize(("strategy", "budget"), [("truncate", None), ("adaptive", 100_000), ("summarize", 100_000)])
async def test_the_oldest_turns_leave_where_more_would_be_too_large(
    tmp_path: Path, strategy: Overflow, budget: int | None
) -> None:
    up = Upstream()
    async with services(tmp_path, up, SMALL) as svc:
        cuts = []
        for n in range(24):
            await take(svc, Ask([photo(n)]), overflow=strategy, token_budget=budget)
            assert len(up.bodies[-1]) < (1 << 20) + 100
            sent = [json.loads(raw) for raw in raw_messages(up.bodies[-1])]
            sent = [message for message in sent if message["role"] != "system"]
            first = n - len(sent) // 2
            assert sent[::2] == [photo(one) for one in range(first, n + 1)], "whole turns, each as it came"
            cuts.append(first)
        assert cuts[-1] > 0
        assert len(set(cuts)) < 8, "half of it leaves at once, so that a prompt begins as the last one did"
        told = (await ledgers(svc))[-1]["segments"]
        assert [(one["count"], one["reason"]) for one in told if not one["kept"]] == [(2 * cuts[-1], "over budget")]


async def test_null_says_which_setting_the_conversation_is_too_large_for(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream(), SMALL) as svc:
        for n in range(6):
            await take(svc, Ask([photo(n)]), overflow="null")
        with pytest.raises(ContextTooLong) as caught:
            await take(svc, Ask([photo(6)]), overflow="null")
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
        assert "2 MB" in caught.value.message
        assert "limits.prompt_mb" in caught.value.message
        await take(svc, Ask([photo(6)]), overflow="truncate")


async def test_a_group_is_sent_whole_or_not_at_all(tmp_path: Path) -> None:
    up = Upstream(script=[says("ok"), says("ok"), call("c1")])
    async with services(tmp_path, up, SMALL) as svc:
        for n in range(2):
            await take(svc, Ask([photo(n, 400_000)]))
        await take(svc, Ask([photo(2)]))
        await take(svc, Ask([result("c1", "x " * 350_000)]))
        sent = [json.loads(raw) for raw in raw_messages(up.bodies[-1])]
        assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
        assert sent[0] == photo(2), "the newest question goes along"
        up.script = [call("c2")]
        await take(svc, Ask([user("again")]))
        with pytest.raises(ContextTooLong) as caught:
            await take(svc, Ask([result("c2", "x " * 600_000)]))
        assert "limits.prompt_mb" in caught.value.message


async def test_cleared_results_are_not_read_whole(tmp_path: Path) -> None:
    up = Upstream()
    async with services(tmp_path, up, f"context: {{tool_result_clear_after: 1}}\n{SMALL}") as svc:
        for n in range(12):
            up.script = [call(f"c{n}")]
            await take(svc, Ask([user(f"look {n}")]), token_budget=400)
            shot = {"role": "tool", "tool_call_id": f"c{n}", "content": photo(n)["content"]}
            await take(svc, Ask([shot]), token_budget=400)
            assert len(up.bodies[-1]) < 1 << 20
        turn, found = await found_by(svc, user("and now?"), token_budget=400)
        limits = await budget.limits(svc, turn, found, None, budget.scale(svc, turn, budget.last(found)))
        assert limits.cleared
        gone = await svc.db.all("SELECT raw FROM entries WHERE seq < ? AND role = 'tool'", (limits.cleared,))
        marks = [raw.split(b"\x00")[1].decode() for (raw,) in gone]
        await svc.db.transaction(
            lambda tx: [tx.all("DELETE FROM blobs WHERE hash = unhex(?)", (one,)) for one in marks]
        )
        read = await past.read(svc, turn, found, limits, words)
        cleared = [piece for piece in read.pieces if piece.cleared]
        assert cleared
        assert all(json.loads(piece.raw)["content"] == CLEARED for piece in cleared)


async def test_results_before_a_place_become_markers() -> None:
    pieces = [
        Piece("assistant", b"{}", 9, 1, calls=1),
        Piece("tool", json.dumps(result("c1")).encode(), 105, 2),
        Piece("tool", json.dumps(result("c2")).encode(), 105, 3),
        Piece("tool", json.dumps(result("c3")).encode(), 5, None),
    ]
    assert past.marked(pieces, 0, 20) == pieces
    marked = past.marked(pieces, 3, 20)
    assert [piece.tokens for piece in marked] == [9, 20, 105, 5]
    assert json.loads(marked[1].raw) == result("c1", CLEARED)
    assert past.marked(marked, 3, 20) == marked


async def test_the_text_of_a_question_is_resumed_in_its_tool_loop_only(tmp_path: Path) -> None:
    up = Upstream(script=[says("ok"), call("c1")])
    async with services(tmp_path, up) as svc:
        await talked(svc, ["hi", "where is it"])
        await svc.db.transaction(lambda tx: tx.all("UPDATE turns SET recalled = ? WHERE turn = 2", (b"old news",)))

        async def resumed(*messages: Message) -> str:
            turn, found = await found_by(svc, *messages)
            read = await past.read(svc, turn, found, Limits(None, "adaptive", 0, 0.5), words)
            return await past.resumed(svc, turn, found, read)

        assert await resumed(result("c1")) == "old news"
        assert await resumed(result("c1"), user("and hurry")) == ""
        assert await resumed(user("never mind")) == ""


async def test_an_observed_resend_is_priced_as_it_is_stored(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream()) as svc:
        assert await past.price_of(svc, *(await found_by(svc, user("one"), mode="observe"))) == ()
        said: list[Message] = []
        for text in TALK:
            said.append(user(text + " word" * len(said)))
            await take(svc, Ask(said), mode="observe")
            said.append({"role": "assistant", "content": "ok"})
        (block,) = await past.price_of(svc, *(await found_by(svc, *said, user("x"), mode="observe")))
        assert (block.seq, block.count, block.tokens) == (1, 6, sum(4 + words(str(one["content"])) for one in said))
        (block,) = await past.price_of(svc, *(await found_by(svc, *said[2:], user("x"), mode="observe")))
        assert (block.seq, block.count) == (3, 4)


async def test_what_only_its_writer_may_read_is_left_out_for_another_model(tmp_path: Path) -> None:
    thought = {"role": "assistant", "content": "noon", "reasoning_details": [
        {"type": "reasoning.encrypted", "data": "b3BhcXVl", "format": "x", "index": 0}]}  # fmt: skip
    up = Upstream(script=[thought])
    async with services(tmp_path, up) as svc:
        await take(svc, Ask([user("what time is it")], fields={"model": "a"}))
        seen = []
        for model in ("a", "b", "b", "a"):
            await take(svc, Ask([user("and now")], fields={"model": model}))
            answer = raw_messages(up.bodies[-1])[1]
            assert json.loads(answer)["content"] == "noon"
            seen.append(b"b3BhcXVl" in answer)
        assert seen == [True, False, False, True]
