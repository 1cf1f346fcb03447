"""Passages hold every message once, in order; excerpts show the part that was asked for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recall import chunk, exchange
from proxy.recall.exchange import Line
from proxy.store.history import Told
from proxy.store.passages import LONGEST


def told(seq: int, role: str, content: Any, **fields: Any) -> Told:
    raw = json.dumps({"role": role, "content": content, **fields}).encode()
    return Told(1, seq, role, raw, 1, 0, "complete", 1_683_417_600_000, "m")


def spans(*said: tuple[str, str]) -> list[tuple[int, int]]:
    made = exchange.cut([told(n, role, text) for n, (role, text) in enumerate(said, 1)])
    return [(passage.first, passage.last) for passage in made]


def test_a_passage_is_a_question_with_what_follows_until_the_next() -> None:
    assert spans(("user", "a"), ("assistant", "b"), ("tool", "c"), ("assistant", "d"), ("user", "e")) == [
        (1, 4),
        (5, 5),
    ]
    assert spans(("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")) == [(1, 3), (4, 4)]


def test_a_long_exchange_is_cut_but_a_question_stays_with_the_first_answer() -> None:
    assert spans(("user", "q" * 900), ("assistant", "a" * 3000), ("assistant", "b")) == [(1, 2), (3, 3)]


def test_what_was_refused_or_said_aloud_is_found_too() -> None:
    assert exchange.line(told(1, "assistant", None, refusal="not that")).text == "not that"
    assert exchange.line(told(1, "assistant", None, audio={"id": "a", "transcript": "hello"})).text == "hello"


ROLES = st.sampled_from(["user", "assistant", "tool", "system"])


@given(st.lists(st.tuples(ROLES, st.sampled_from(["", "word", "long " * 200, "very long " * 400])), max_size=60))
def test_every_message_is_in_one_passage_in_order(said: list[tuple[str, str]]) -> None:
    made = spans(*said)
    assert [seq for first, last in made for seq in range(first, last + 1)] == list(range(1, len(said) + 1))
    assert all(last - first < LONGEST for first, last in made)


def test_names_and_days_are_indexed_with_the_text() -> None:
    (passage,) = exchange.cut([told(1, "user", "Hello", name="Ada")])
    assert set(passage.text.split()) == {"Ada", "7", "May", "2023", "Hello"}
    assert passage.words == 5


@pytest.mark.parametrize(
    ("role", "content", "text"),
    [
        ("user", [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}], "a"),
        ("assistant", "<think>hm</think> yes", "yes"),
        ("assistant", None, ""),
        ("system", "obey", ""),
        ("tool", "r" * 1000, "r" * exchange.RESULT),
        ("user", 'ok "x" </s>', 'ok "x" </s>'),
    ],
)
def test_what_a_message_says(role: str, content: Any, text: str) -> None:
    assert exchange.line(told(1, role, content)).text == text


def test_a_message_without_text_still_has_a_passage() -> None:
    """Else the index would never get past it."""
    made = exchange.cut([told(1, "system", "obey")])
    assert [(passage.first, passage.last) for passage in made] == [(1, 1)]


def test_an_excerpt_shows_the_part_with_the_words() -> None:
    filler = "Nothing of note was said here at all. " * 100
    lines = [Line(1, 1, 0, "user", "", "Where?"), Line(1, 2, 0, "assistant", "", f"{filler}The zebra ran. {filler}")]
    shown = exchange.excerpt(lines, ["zebras"])
    assert shown[0].text == "Where?"
    assert "zebra" in shown[1].text
    assert sum(len(line.text) for line in shown) <= chunk.LARGEST + 10
    assert exchange.excerpt(lines[:1], ["zebra"]) == lines[:1]
