"""What an answer's events say."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.chatting.said import Said, message_of


def taken(said: Said, **delta: Any) -> list[tuple[str, str]]:
    return list(said.take(json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()))


def test_text_reasoning_and_refusals_are_shown() -> None:
    said = Said()
    assert taken(said, role="assistant", content="") == []
    assert taken(said, reasoning_content="hm") == [("reasoning", "hm")]
    assert taken(said, reasoning="so", content="It") == [("reasoning", "so"), ("text", "It")]
    assert taken(said, refusal="no") == [("text", "no")]
    assert taken(said, content=[{"type": "text", "text": "part"}]) == [("text", "part")]
    assert taken(said, content="\x1b[2J") == [("text", "[2J")]
    assert said.characters == len("Itnopart[2J")


def test_it_ends_with_a_reason_and_done() -> None:
    said = Said()
    said.take(b'{"choices": [{"delta": {}, "finish_reason": "length"}]}')
    assert (said.finish, said.done) == ("length", False)
    assert said.take(b" [DONE]") == []
    assert said.done


def test_calls_are_put_together() -> None:
    said = Said()
    taken(said, tool_calls=[{"index": 1, "function": {"name": "b", "arguments": ""}}])
    taken(said, tool_calls=[{"index": 0, "function": {"name": "clock", "arguments": '{"zo'}}, "odd", {"index": 0}])
    taken(said, tool_calls=[{"index": 0, "function": {"arguments": 'ne": 1}'}}])
    assert said.wanted() == ['clock({"zone": 1})', "b()"]


def test_an_error_event_says_why() -> None:
    said = Said()
    said.take(b'{"error": {"message": "it\\nbroke", "type": "x"}}')
    assert said.problem == "it broke"
    said.take(b"{")
    assert said.problem == "the proxy sent something that cannot be read"
    assert [message_of(odd) for odd in (None, [], {"error": 3}, {"error": {"message": 3}}, {"error": "plain"})] == [
        *[""] * 4,
        "plain",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "delta", "content", "tool_calls", "function", "index", "error", "finish_reason"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_nothing_that_comes_ends_the_chat(value: Any) -> None:
    said = Said()
    for kind, text in said.take(json.dumps(value).encode()):
        assert kind in ("text", "reasoning")
        assert text
    said.wanted()
