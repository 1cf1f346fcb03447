"""Deltas, and what they make up."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroken
from proxy.upstream import merge
from proxy.upstream.merge import DEEPEST

Json = dict[str, Any]


def made(*deltas: Json) -> Json:
    into: Json = {}
    for delta in deltas:
        merge.merge(into, delta)
    return merge.settled(into, torn=False)


def noted(*values: Any, grows: bool = False) -> Any:
    old = None
    for value in values:
        old = merge.noted(old, value, grows)
    return old


CASES: list[tuple[str, list[Json], Json]] = [
    ("text joins", [{"a": "x"}, {"a": "y"}, {"a": ""}, {"a": "z"}], {"a": "xyz"}),
    ("text after nothing", [{"a": None}, {"a": ""}, {"a": "x"}], {"a": "x"}),
    ("what comes once stays", [{"id": "a", "name": ""}, {"id": "a", "name": "n"}, {"id": "", "name": None}],
     {"id": "a", "name": "n"}),
    ("objects merge", [{"a": {"x": "1"}}, {"a": {"x": "2", "y": 3}}, {"a": {}}], {"a": {"x": "12", "y": 3}}),
    ("items without an index are added", [{"a": [1, {"b": 2}]}, {"a": [1]}], {"a": [1, {"b": 2}, 1]}),
    (
        "items merge by their index",
        [{"a": [{"index": 1, "t": "x"}, {"index": 0, "t": "y"}]}, {"a": [{"index": 0, "t": "z"}]}],
        {"a": [{"index": 1, "t": "x"}, {"index": 0, "t": "yz"}]},
    ),
    ("two of one index in one delta too", [{"a": [{"index": 0, "t": "x"}, {"index": 0, "t": "y"}]}],
     {"a": [{"index": 0, "t": "xy"}]}),
    ("an index that is none", [{"a": [{"index": [], "t": "x"}, {"index": None, "t": "y"}]}],
     {"a": [{"index": [], "t": "x"}, {"index": None, "t": "y"}]}),
    ("numbers are replaced", [{"a": 1}, {"a": 2.5}, {"a": None}, {"a": False}], {"a": False}),
    ("what changes its type is replaced", [{"a": "x"}, {"a": "y"}, {"a": [1]}, {"a": {"b": 1}}], {"a": {"b": 1}}),
    ("null alone stays", [{"a": None}, {"a": None}], {"a": None}),
    ("lists within objects", [{"a": {"b": [{"index": 0, "t": "x"}]}}, {"a": {"b": [{"index": 0, "t": "y"}, 1]}}],
     {"a": {"b": [{"index": 0, "t": "xy"}, 1]}}),
]  # fmt: skip


@pytest.mark.parametrize(("deltas", "whole"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_deltas_make_up(deltas: list[Json], whole: Json) -> None:
    assert made(*deltas) == whole


def test_what_was_made_up_can_be_read_twice_and_grows_on() -> None:
    into: Json = {}
    for text in "ab":
        merge.merge(into, {"a": text, "b": [{"index": 0, "t": text}]})
    first = merge.settled(into, torn=False)
    assert merge.settled(into, torn=False) == first == {"a": "ab", "b": [{"index": 0, "t": "ab"}]}
    first["b"][0]["t"] = "another"
    merge.merge(into, {"a": "c"})
    assert merge.settled(into, torn=False) == {"a": "abc", "b": [{"index": 0, "t": "ab"}]}


def test_the_latest_that_is_not_null_is_noted() -> None:
    assert noted("a", "b", None) == "b"
    assert noted({"a": 1, "b": {"c": "x"}}, {"b": {"c": "y", "d": None}}, None) == {"a": 1, "b": {"c": "y", "d": None}}
    assert noted([1], [2]) == [2]
    assert noted({"a": [1], "b": None}, {"a": [2], "b": [3]}, {"a": None}, grows=True) == {"a": [1, 2], "b": [3]}
    assert noted(None, None) is None


def deep(levels: int, many: bool) -> Any:
    value: Any = {"x": 1}
    for _ in range(levels):
        value = [value] if many else {"k": value}
    return value


@pytest.mark.parametrize("many", [True, False])
def test_what_is_nested_too_deeply_is_refused_whoever_meets_it(many: bool) -> None:
    for levels in (DEEPEST * 2, 900):
        with pytest.raises(UpstreamBroken):
            made({"a": deep(levels, many)}, {"a": deep(levels, many)})
    with pytest.raises(UpstreamBroken):
        noted(deep(900, False), deep(900, False))
    assert made({"a": deep(DEEPEST - 3, many)})


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_sound_is_one_base64_however_it_was_cut(parts: list[bytes]) -> None:
    joined = "".join(base64.b64encode(part).decode() for part in parts)
    assert base64.b64decode(merge.sound(joined), validate=True) == b"".join(parts)


@pytest.mark.parametrize("data", ["", "abc", "=", "====", "a=b=c", "\u00e9==\u00e9", "ab==?cd=", "ab===="])
def test_what_is_no_base64_stays_as_it_is(data: str) -> None:
    assert merge.sound(data) == data


@given(st.text(st.characters(), max_size=20))
def test_a_mended_text_is_utf_8_and_the_same_where_it_was(text: str) -> None:
    assert merge.mended(text).encode().decode() == merge.mended(text)
    if not any(0xD800 <= ord(one) < 0xE000 for one in text):
        assert merge.mended(text) == text
