"""The lines of an export: JSON of others keeps its bytes, times their milliseconds, and what is wrong is named."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.archive import lines
from proxy.archive.lines import BadLine, EndLine, EntryLine, embedded, taken
from tests.archive.stores import ODD, SPREAD

ROOT = Path(__file__).parent.parent.parent
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def spelt(draw: st.DrawFn, values: st.SearchStrategy[Any] = JSON) -> bytes:
    """A value as JSON, spelt in one of many ways."""
    indent = draw(st.sampled_from([None, None, 1, "\t"]))
    text = json.dumps(draw(values), ensure_ascii=draw(st.booleans()), indent=indent)
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n", "\r"]))).encode()


def entry(raw: bytes) -> EntryLine:
    return EntryLine(1, 1, "complete", 5, None, embedded(raw))


@given(spelt())
def test_any_json_stands_in_one_line_and_comes_back_byte_for_byte(raw: bytes) -> None:
    line = lines.written(entry(raw))
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert b"\r" not in line
    json.loads(line)
    back = lines.read(1, line[:-1])
    assert isinstance(back, EntryLine)
    assert taken(back.message) == raw
    assert lines.written(back) == line


@pytest.mark.parametrize(
    "raw",
    [b"{}", b"[]", SPREAD, b' {"a": 1}', b'{"a": 1}\t', b'"text"', b"5", b"null", b'{"n": 1e999, "n": 0}',
     json.dumps({"a": ODD}).encode(), json.dumps({"a": ODD}, ensure_ascii=False).encode()],
)  # fmt: skip
def test_odd_json_comes_back_byte_for_byte(raw: bytes) -> None:
    back = lines.read(1, lines.written(entry(raw)))
    assert isinstance(back, EntryLine)
    assert taken(back.message) == raw


def test_what_fits_a_line_stands_in_it_as_it_is() -> None:
    raw = b'{"role": "user",  "content": "hi"}'
    assert raw in lines.written(entry(raw))


def test_nothing_is_null_and_the_text_null_is_not() -> None:
    assert embedded(None) == lines.NULL
    assert bytes(embedded(b"null")) == b'"null"'
    assert taken(embedded(b"null")) == b"null"


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_are_exact_to_the_millisecond(epoch_ms: int) -> None:
    encoded = msgspec.json.encode(lines.shown(epoch_ms))
    assert lines.ms(msgspec.json.decode(encoded, type=lines.Time)) == epoch_ms


def test_a_session_begins_with_a_line_that_says_so() -> None:
    assert lines.begins(b'{"type":"session"}')
    assert lines.begins(b'{"version":9,"type":"session"}')
    assert not any(map(lines.begins, (b'{"type":"end"}', b"{}", b"[]", b"5", b"", b'{"type":"session"', b"\xff")))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"type":"end"', "line 7: it is not JSON (Input data was truncated)"),
        (b'{"type":"end","uuid":"\xff"}', "line 7: it is not UTF-8"),
        (b"[]", "line 7: expected 'object', got 'array'"),
        (b'{"uuid":"u"}', "line 7: object missing required field 'type'"),
        (b'{"type":"fish"}', "line 7: invalid value 'fish' - at '$.type'"),
        (b'{"type":"end"}', "line 7: object missing required field 'uuid'"),
        (b'{"type":"end","uuid":""}', "line 7: expected 'str' of length >= 1 - at '$.uuid'"),
        (b'{"type":"end","uuid":"u","x":1}', "line 7: object contains unknown field 'x'"),
        (b'{"type":"session","version":2}', "line 7: its format has version 2, this session-proxy reads 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_named(raw: bytes, said: str) -> None:
    with pytest.raises(BadLine) as caught:
        lines.read(7, raw)
    assert str(caught.value).startswith(said)


def test_a_line_that_is_nested_beyond_reading_is_named() -> None:
    with pytest.raises(BadLine, match="line 7: it is nested too deeply"):
        lines.read(7, b'{"type":"end","uuid":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_an_end_says_whose() -> None:
    assert lines.written(EndLine("u")) == b'{"type":"end","uuid":"u"}\n'


def test_every_field_of_every_line_is_documented() -> None:
    text = (ROOT / "docs" / "export.md").read_text()
    found = re.findall(r"^\| (`.*)$", text, re.M)
    rows = {kind: row for row in found for kind in re.findall(r"`(\w+)`", row.split("|")[0])}
    for line in get_args(lines.AnyLine):
        kind = line.__struct_config__.tag
        assert [name for name in line.__struct_fields__ if f"`{name}`" not in rows[kind]] == [], kind
