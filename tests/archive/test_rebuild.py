"""Lines are checked before anything is stored: what is wrong, missing or out of place is named with its line."""

import copy
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from proxy.archive import lines
from proxy.archive.lines import BadLine
from proxy.archive.rebuild import marked, parts
from proxy.errors import BadRequest
from proxy.reconcile import digest
from proxy.store.archive import BranchPart, EntryPart, MemberPart, SessionPart, TurnPart

AT = "2026-01-31T12:00:00.5Z"
TIMES = {"created_at": AT, "updated_at": AT}
CALLS = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
]}  # fmt: skip
Lines = list[dict[str, Any]]


def result(call: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": "r"}


def entry(turn: int, seq: int, message: dict[str, Any], tokens: int = 2) -> dict[str, Any]:
    return {"type": "entry", "turn": turn, "seq": seq, "status": "complete", "tokens": tokens, "said_at": None,
            "message": message}  # fmt: skip


def turn(number: int, branch: int) -> dict[str, Any]:
    return {"type": "turn", "number": number, "branch": branch, "status": "complete", "model": "m", "instructions": 1,
            "request_id": "r", "created_at": AT, "usage": None, "ledger": {}}  # fmt: skip


def branch(number: int, parent: int | None, forked_at: int, head: int) -> dict[str, Any]:
    return {"type": "branch", "number": number, "parent": parent, "forked_at": forked_at, "head": head, "cut": 0,
            "cut_key": "", "instructions": 1, "created_at": AT}  # fmt: skip


WHOLE: Lines = [
    {"type": "session", "version": 1, "uuid": "s", "name": "boat", **TIMES, "token_budget": None, "overflow": None,
     "branch": 3, "branches": 3, "turns": 4, "agents": ["a"], "users": [], "settings": {"metadata": {"k": 1}}},
    {"type": "tool", "owner": "s", "uuid": "t", "name": "look", **TIMES, "fields": {"type": "function"}},
    {"type": "agent", "uuid": "a", **TIMES, "fields": {"name": "Ada", "metadata": {"team": "x"}}},
    {"type": "doc", "owner": "a", "uuid": "d", "title": "T", "created_at": AT, "metadata": {}, "content": ["text"]},
    {"type": "instructions", "number": 1, "tokens": 3, "messages": [{"role": "system", "content": "brief"}]},
    branch(1, None, 0, 3), branch(2, 1, 1, 2), branch(3, 2, 1, 1),
    turn(1, 1), entry(1, 1, CALLS), entry(1, 2, result("c1"), 5), entry(1, 3, result("c2"), 7),
    turn(3, 2), entry(3, 2, result("c2")),
    {"type": "end", "uuid": "s"},
]  # fmt: skip
SESSION, TOOL, AGENT, DOC, BRIEF, ROOT, FORK, LEAF, TURN, ASKED, ONE, TWO, LATER, LAST, END = range(15)


def built(given: Iterable[dict[str, Any]]) -> list[Any]:
    raws = (json.dumps(line).encode() for line in given)
    return list(parts((n, lines.read(n, raw)) for n, raw in enumerate(raws, 1)))


def test_what_follows_from_the_lines_is_made_of_them() -> None:
    made = built(WHOLE)
    entries = [part for part in made if isinstance(part, EntryPart)]
    assert [(one.branch, one.seq, one.turn, one.total, one.message.calls) for one in entries] == [
        (1, 1, 1, 2, 2), (1, 2, 1, 7, 0), (1, 3, 1, 14, 0), (2, 2, 3, 4, 0),
    ]  # fmt: skip
    assert [one.message.digest for one in entries] == [
        digest(CALLS), digest(result("c1"), 0), digest(result("c2"), 1), digest(result("c2"), 1),
    ]  # fmt: skip
    assert [(one.number, one.first, one.last) for one in made if isinstance(one, TurnPart)] == [(1, 1, 3), (3, 2, 2)]
    ends = [(one.number, one.head, one.total, one.end_digest, one.last_turn) for one in made[-3:]]
    assert ends == [(1, 3, 14, digest(result("c2"), 1), 1), (2, 2, 4, digest(result("c2"), 1), 3), (3, 1, 2, b"", 0)]
    assert isinstance(made[0], SessionPart)
    assert (made[0].created_at, made[0].facets, made[0].settings) == (1769860800500, (("m:k", "1"),),
                                                                      b'{"metadata": {"k": 1}}')  # fmt: skip
    assert [part.facets for part in made if isinstance(part, MemberPart)] == [(("m:team", "x"),)]


def test_a_branch_of_a_branch_shares_what_that_one_shares() -> None:
    given = copy.deepcopy(WHOLE)
    given[LEAF]["head"] = 2
    given[END:END] = [turn(4, 3), entry(4, 2, result("c1"), 10)]
    last = [part for part in built(given) if isinstance(part, EntryPart)][-1]
    assert (last.total, last.message.digest) == (12, digest(result("c1"), 0))
    assert [part.last_turn for part in built(given) if isinstance(part, BranchPart)] == [1, 3, 4]


def test_the_choices_of_a_turn_keep_their_bytes() -> None:
    given = copy.deepcopy(WHOLE)
    given[TURN]["choices"] = [{"index": 0}, {"index": 1, "message": {"role": "assistant", "content": "b"}}]
    told = [part.choices for part in built(given) if isinstance(part, TurnPart)]
    assert told == [json.dumps(given[TURN]["choices"]).encode(), None]


def test_a_session_may_be_empty() -> None:
    given = [WHOLE[SESSION] | {"branch": 1, "branches": 1, "turns": 9, "agents": [], "settings": None},
             branch(1, None, 0, 0) | {"instructions": None}, WHOLE[END]]  # fmt: skip
    session, root = built(given)
    assert session.settings is None
    assert (root.head, root.total, root.end_digest, root.end_status, root.last_turn) == (0, 0, b"", "complete", 0)


def changed(at: int, **fields: Any) -> Callable[[Lines], None]:
    return lambda given: given[at].update(fields)


def without(at: int) -> Callable[[Lines], None]:
    return lambda given: given.__delitem__(at)


def with_line(at: int, line: dict[str, Any]) -> Callable[[Lines], None]:
    return lambda given: given.insert(at, copy.deepcopy(line))


def message(**fields: Any) -> Callable[[Lines], None]:
    return lambda given: given[ASKED].update(message={**CALLS, **fields})


WRONG: list[tuple[Callable[[Lines], None], int, str]] = [
    (without(SESSION), 1, "a session begins with its `session` line, not with `tool`"),
    (with_line(SESSION, WHOLE[SESSION]), 2, "`session` is out of place here"),
    (without(END), 14, "the session is not complete: its `end` does not follow; the file was cut off"),
    (with_line(END + 1, WHOLE[LAST]), 16, "`entry` is out of place here"),
    (with_line(END + 1, WHOLE[END]), 16, "`end` is out of place here"),
    (with_line(LAST, WHOLE[BRIEF]), 14, "`instructions` is out of place here"),
    (with_line(TURN, WHOLE[DOC]), 9, "`doc` is out of place here"),
    (changed(SESSION, settings=5), 1, "expected 'object | null', got 'int'"),
    (changed(SESSION, settings={"recall": 5}), 1, "expected 'bool', got 'int' - at '$.recall'"),
    (changed(SESSION, settings='{"recall"'), 1, "it is not JSON"),
    (changed(SESSION, settings={"metadata": {"a": list(range(300))}}), 1, "metadata holds more than 256 values"),
    (changed(SESSION, name="caf\u00e9"), 1, "expected 'str' matching regex"),
    (changed(SESSION, token_budget=0), 1, "expected 'int' >= 1 - at '$.token_budget'"),
    (changed(SESSION, overflow="drop"), 1, "invalid enum value 'drop' - at '$.overflow'"),
    (changed(SESSION, created_at="yesterday"), 1, "invalid RFC3339 encoded datetime - at '$.created_at'"),
    (changed(SESSION, created_at="2026-01-31T12:00:00"), 1, "expected 'datetime' with a timezone component"),
    (changed(SESSION, branch=4), 15, "the session's branch 4 is missing"),
    (changed(SESSION, branches=2), 15, "the session has fewer branches or turns than stand here"),
    (changed(SESSION, turns=2), 15, "the session has fewer branches or turns than stand here"),
    (changed(TOOL, owner="a"), 2, "its owner is a, but it stands below s"),
    (changed(TOOL, fields={}), 2, "fields.type must say what kind of tool it is"),
    (changed(AGENT, fields={}), 3, "object missing required field 'name'"),
    (changed(TURN, choices=5), 9, "expected 'array', got 'int'"),
    (changed(TURN, choices=[]), 9, "choices must be a list of objects, all but the first with a message"),
    (changed(TURN, choices=[{}, {"message": "b"}]), 9, "choices must be a list of objects, all but the first"),
    (changed(TURN, choices=[{"message": {}}]), 9, "choices must be a list of objects, all but the first"),
    (changed(DOC, owner="s"), 4, "its owner is s, but it stands below a"),
    (changed(DOC, content="text"), 4, "it is not JSON"),
    (changed(DOC, content=[5]), 4, "expected 'str', got 'int' - at '$[0]'"),
    (changed(DOC, metadata=[]), 4, "expected 'object', got 'array'"),
    (changed(BRIEF, messages=[]), 5, "messages is empty"),
    (changed(BRIEF, messages=[5]), 5, "expected 'object', got 'int' - at '$[0]'"),
    (with_line(BRIEF, WHOLE[BRIEF]), 6, "there are instructions 1 already"),
    (changed(BRIEF, number=2), 6, "there are no instructions 1"),
    (changed(ROOT, parent=1), 6, "the first branch has no parent, each other one stands once and after its parent"),
    (changed(ROOT, forked_at=1), 6, "the first branch begins at 0"),
    (changed(FORK, parent=None), 7, "the first branch has no parent, each other one stands once and after its parent"),
    (changed(FORK, parent=3), 7, "the first branch has no parent, each other one stands once and after its parent"),
    (changed(FORK, number=1), 7, "the first branch has no parent, each other one stands once and after its parent"),
    (changed(FORK, forked_at=3), 7, "a branch begins not after its own end and that of its parent"),
    (changed(FORK, forked_at=4, head=5), 7, "a branch begins not after its own end and that of its parent"),
    (changed(ROOT, head=2), 12, "seq is 3; branch 1 is at 2 and ends at 2"),
    (changed(ROOT, head=4), 15, "branch 1 ends at 4, its entries at 3"),
    (changed(TURN, branch=9), 9, "there is no branch 9"),
    (changed(TURN, instructions=2), 9, "there are no instructions 2"),
    (changed(TURN, ledger=[]), 9, "expected 'object', got 'array'"),
    (changed(TURN, usage="{"), 9, "it is not JSON"),
    (changed(TURN, status="open"), 9, "invalid enum value 'open' - at '$.status'"),
    (changed(LATER, number=1), 13, "there is a turn 1 already"),
    (changed(TURN, branch=2), 9, "branch 2 stands before the entries that it begins after"),
    (changed(ASKED, turn=2), 10, "an entry stands below its turn, 2"),
    (changed(ASKED, seq=2), 10, "seq is 2; branch 1 is at 0 and ends at 3"),
    (changed(ASKED, tokens=-1), 10, "expected 'int' >= 0 - at '$.tokens'"),
    (changed(ASKED, message="hello"), 10, "it is not JSON"),
    (changed(ASKED, message=["hello"]), 10, "expected 'object', got 'array'"),
    (message(role="king"), 10, "message.role must be one of"),
    (message(content=5), 10, "message.content must be a string or a list of parts"),
    (message(content=[{"type": "text", "text": 5}]), 10, "message.content: the text of a part must be a string"),
    (message(tool_calls={}), 10, "message.tool_calls must be a list of tool calls"),
    (message(role="tool"), 10, "message.tool_call_id must name the call it answers"),
    (with_line(LATER, turn(2, 1)), 14, "turn 2, before this line, has no entries"),
    (without(LAST), 14, "turn 3, before this line, has no entries"),
    (without(LATER), 13, "an entry stands below its turn, 3"),
    (changed(END, uuid="t"), 15, "this is the end of another session"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "number", "said"), WRONG)
def test_what_is_wrong_is_named_with_its_line(change: Callable[[Lines], None], number: int, said: str) -> None:
    given = copy.deepcopy(WHOLE)
    change(given)
    with pytest.raises(BadLine) as caught:
        built(given)
    assert str(caught.value).startswith(f"line {number}: {said}")


def test_any_line_may_be_missing_or_stand_twice_without_a_defect() -> None:
    for at in range(len(WHOLE)):
        for change in (without(at), with_line(at, WHOLE[at])):
            given = copy.deepcopy(WHOLE)
            change(given)
            try:
                built(given)
            except BadLine:
                continue
            assert at in (TOOL, AGENT, DOC), at


def test_a_result_that_answers_no_call_before_it_is_the_first() -> None:
    """As turns that are only observed store it."""
    message, calls = marked(json.dumps(result("c9")).encode(), ("c1", "c2"))
    assert (message.digest, calls) == (digest(result("c9"), 0), ("c1", "c2"))


def test_what_no_model_takes_is_refused() -> None:
    with pytest.raises(BadRequest):
        marked(b'{"content": "no role"}', ())
