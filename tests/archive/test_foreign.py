"""Conversations of others become sessions like those that were held here."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.archive import foreign, lines
from proxy.archive.foreign import Making
from proxy.archive.lines import EntryLine, InstructionsLine, SessionLine, TurnLine, taken
from proxy.archive.rebuild import parts
from proxy.context import tokens
from proxy.errors import BadRequest
from tests.archive.stores import NOW, ODD, check, result, says, user
from tests.inprocess import words

MAKING = Making("uuid", "boat", NOW, check, words)
SYSTEM = {"role": "system", "content": "Be brief."}


def of_list(*messages: dict[str, Any], raw: str = "") -> list[lines.AnyLine]:
    return list(foreign.of_messages((raw or json.dumps(messages)).encode(), MAKING))


def of_history(*entries: Any) -> list[lines.AnyLine]:
    return list(foreign.of_history(entries, MAKING))


def messages(made: Sequence[lines.AnyLine]) -> list[dict[str, Any]]:
    assert list(parts(enumerate(made, 1))), "the lines are good"
    return [json.loads(taken(line.message)) for line in made if isinstance(line, EntryLine)]


def turns(made: Sequence[lines.AnyLine]) -> list[int]:
    """How many entries each turn has."""
    numbers = [line.turn for line in made if isinstance(line, EntryLine)]
    assert [line.number for line in made if isinstance(line, TurnLine)] == sorted(set(numbers))
    return [numbers.count(number) for number in sorted(set(numbers))]


# --- lists of messages ---


def test_a_list_is_a_session_of_its_messages() -> None:
    made = of_list(user("q"), says("a"), user("r"))
    assert messages(made) == [user("q"), says("a"), user("r")]
    assert turns(made) == [2, 1]
    session = made[0]
    assert isinstance(session, SessionLine)
    assert (session.uuid, session.name, session.turns, session.settings) == ("uuid", "boat", 2, lines.NULL)
    assert lines.ms(session.created_at) == NOW


def test_messages_keep_their_bytes_and_get_their_price() -> None:
    raw = '{"role":  "user", "content": "two words", "n": 1.50}'
    made = of_list(raw=f'[\n {raw},\n\n {{"role": "user", "content": ""}}]')
    first = next(line for line in made if isinstance(line, EntryLine))
    assert taken(first.message) == raw.encode()
    assert first.tokens == tokens.of_message(json.loads(raw), words)


def test_leading_instructions_stand_and_later_ones_are_messages() -> None:
    developer = {"role": "developer", "content": ODD}
    made = of_list(SYSTEM, developer, user("q"), SYSTEM)
    assert messages(made) == [user("q"), SYSTEM]
    (standing,) = [line for line in made if isinstance(line, InstructionsLine)]
    assert json.loads(taken(standing.messages)) == [SYSTEM, developer]
    assert standing.tokens == sum(tokens.of_message(one, words) for one in (SYSTEM, developer))
    assert {line.instructions for line in made if isinstance(line, TurnLine)} == {1}


def test_empty_instructions_are_none() -> None:
    made = of_list({"role": "system", "content": ""}, user("q"))
    assert not [line for line in made if isinstance(line, InstructionsLine)]
    assert messages(made) == [user("q")]


def test_instructions_alone_make_a_session_without_entries() -> None:
    made = of_list(SYSTEM)
    assert messages(made) == []
    assert [type(line) for line in made] == [SessionLine, InstructionsLine, lines.BranchLine, lines.EndLine]


def test_a_turn_begins_where_a_user_speaks_after_another() -> None:
    made = of_list(says("hello"), user("a"), user("b"), says(None, "c1"), result("c1", "r"), says("x"), user("c"))
    assert turns(made) == [1, 5, 1]


def test_results_stand_in_the_order_of_their_calls() -> None:
    made = of_list(user("q"), says(None, "c1", "c2"), result("c2", "two"), result("c1", "one"), says("done"))
    assert [one.get("tool_call_id") for one in messages(made)] == [None, None, "c1", "c2", None]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "messages is empty"),
        ([5], "messages[0] must be an object with a role"),
        ([user("q"), {"role": "king"}], "messages[1].role must be one of"),
        ([{"role": "tool", "content": "r"}], "messages[0].tool_call_id must name the call it answers"),
        ([user("q"), result("c1", "r")], "a result answers the tool call 'c1', which the messages before it do not"),
        ([says(None, "c1"), result("c2", "r")], "a result answers the tool call 'c2', which the messages before it do"),
        ([user("q") | {"content": 5}], "messages[0].content must be a string or a list of parts"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_and_the_message_named(given: Any, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of_list(*given, raw=json.dumps(given))
    assert caught.value.message.startswith(said)


def test_lone_surrogates_become_replacement_characters() -> None:
    made = of_list(raw='[{"role": "user", "content": "half \\ud83d pair"}]')
    assert messages(made) == [user("half \ufffd pair")]


# --- Julep histories ---


def entry(role: str, text: str, **fields: Any) -> dict[str, Any]:
    """As GET /sessions/{id}/history gives it."""
    return {"id": "e", "session_id": "s", "role": role, "content": [{"type": "text", "text": text}], "name": None,
            "tool_calls": None, "tool_call_id": None, "source": "api_request", "tokenizer": "t", "token_count": 3,
            "timestamp": 5.0, "model": "", **fields}  # fmt: skip


def test_a_history_is_a_session_of_plain_messages() -> None:
    call = says(None, "c1")["tool_calls"]
    made = of_history(
        entry("user", "q", name="Bob"),
        entry("assistant", "", content=[], tool_calls=call),
        entry("tool", "r", tool_call_id="c1"),
        entry("assistant", "a", model="m-1"),
        entry("user", ODD),
    )
    assert messages(made) == [
        {"role": "user", "content": "q", "name": "Bob"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": ODD},
    ]
    assert turns(made) == [4, 1]


def test_contents_that_are_more_than_a_text_stay_lists() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/y"}}
    text = {"type": "text", "text": "look"}
    made = of_history(entry("user", "", content=[{"text": "look"}, image]), entry("user", "", content=[image]),
                      entry("user", "", content=[text, text]), entry("user", "", content="plain"),
                      entry("user", "", content=None))  # fmt: skip
    assert [one["content"] for one in messages(made)] == [[text, image], [image], [text, text], "plain", ""]


def test_times_models_and_what_was_cut_short_are_kept() -> None:
    made = of_history(
        entry("user", "q", created_at="2026-01-31T12:00:00Z"),
        entry("assistant", "half", created_at="2026-01-31T13:00:00.123456+01:00", model="m-1", status="incomplete"),
        entry("user", "again", created_at="2026-01-31T12:00:01", status="incomplete"),
        entry("user", "again", created_at=None),
    )
    entries = [line for line in made if isinstance(line, EntryLine)]
    at = [None if line.said_at is None else lines.ms(line.said_at) for line in entries]
    assert at == [1769860800000, 1769860800123, 1769860801000, None]
    assert [line.status for line in entries] == ["complete", "incomplete", "complete", "complete"]
    assert [(line.model, line.status) for line in made if isinstance(line, TurnLine)] == [
        ("m-1", "incomplete"), ("", "complete"),
    ]  # fmt: skip
    assert messages(made)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([5], "entries must be a list of objects"),
        ([entry("function_response", "x")], "messages[0].role must be one of"),
        ([entry("user", "x"), {"content": "x"}], "messages[1].role must be one of"),
        ([entry("user", "x", created_at=5)], "entries[0].created_at must be a time"),
        ([entry("user", "x", created_at="then")], "entries[0].created_at must be a time"),
        ([], "messages is empty"),
    ],
)  # fmt: skip
def test_a_wrong_history_is_refused_and_the_entry_named(given: Any, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of_history(*given)
    assert caught.value.message.startswith(said)
