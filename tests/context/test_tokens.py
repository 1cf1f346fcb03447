"""What messages, tools and images cost."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from proxy import tokenizer
from proxy.context import tokens
from proxy.context.tokens import FRAME, NAME, TOOL_FRAME


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def count() -> Callable[[str], int]:
    """The real counter."""
    return tokenizer.load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("hello world", 2), ("お誕生日おめでとう", 8), ("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7)],
)
def test_texts_cost_what_the_cookbook_of_openai_says(count: Callable[[str], int], text: str, expected: int) -> None:
    assert count(text) == expected
    assert tokens.of_message({"role": "user", "content": text}, count) == FRAME + expected


MESSAGES: list[tuple[str, dict[str, Any], int]] = [
    ("no text", {"role": "assistant", "content": None}, 0),
    ("parts", {"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}]}, 3),
    ("a name", {"role": "user", "content": "a", "name": "ann"}, 1 + NAME + 1),
    (
        "a call",
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "a b"}}]},
        3 + 1 + 2,
    ),
    ("two calls", {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}] * 2}, 2 * 4),
    ("a call of the old kind", {"role": "assistant", "function_call": {"name": "f", "arguments": "a b"}}, 3 + 1 + 2),
    ("a custom call", {"role": "assistant", "tool_calls": [{"custom": {"name": "f", "input": "a b c"}}]}, 3 + 1 + 3),
    ("thinking", {"role": "assistant", "content": "a", "reasoning_content": "b c"}, 3),
    ("a refusal", {"role": "assistant", "content": None, "refusal": "not that"}, 2),
    ("a refusal among parts", {"role": "assistant", "content": [{"type": "refusal", "refusal": "not that"}]}, 2),
    ("an answer aloud", {"role": "assistant", "content": None, "audio": {"id": "a", "data": "A" * 40_000}}, 20),
    ("its transcript", {"role": "assistant", "audio": {"data": "AAAA", "transcript": "one two " * 6}}, 12),
    ("a sound by its id", {"role": "assistant", "audio": {"id": "a"}}, 0),
    ("an image", {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b"}}]}, 765),
    (
        "a sound of a second",
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 100}}]},
        10,
    ),
    ("a small file", {"role": "user", "content": [{"type": "file", "file": {"file_data": "A" * 100}}]}, 250),
    ("a file by its id", {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, 0),
]


@pytest.mark.parametrize(("message", "more"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_a_message_costs_its_frame_and(message: dict[str, Any], more: int) -> None:
    assert tokens.of_message(message, words) == FRAME + more


@pytest.mark.parametrize(
    "odd",
    [
        {"content": 7},
        {"content": [7, None, {"type": "image_url"}, {"type": "input_audio", "input_audio": 1}, {"type": "file"}]},
        {"content": [{"type": "text"}, {"type": "video", "video": {}}]},
        {"tool_calls": [7, {"function": 7}, {"function": {"name": 1, "arguments": {"a": 1}}}]},
        {"function_call": 7},
        {"audio": 7},
        {"audio": {"data": 7, "transcript": 7}},
    ],
)
def test_what_makes_no_sense_costs_something_and_breaks_nothing(odd: dict[str, Any]) -> None:
    assert tokens.of_message({"role": "user", **odd}, words) >= FRAME


def test_tools_cost_their_schema_and_a_frame() -> None:
    assert tokens.of_tools([b'{"name": "f"}', b'{"name": "g"}'], words) == 2 * (TOOL_FRAME + 2)
    assert tokens.of_tools([], words) == 0


# --- images: https://platform.openai.com/docs/guides/images-vision ---


@pytest.mark.parametrize(
    ("width", "height", "cost"),
    [(1024, 1024, 765), (2048, 4096, 1105), (4096, 8192, 1105), (512, 512, 255), (1, 1, 255), (10000, 1, 765)],
)
def test_an_image_costs_its_tiles(width: int, height: int, cost: int) -> None:
    assert tokens.IMAGE_LOW + tokens.IMAGE_TILE * tokens.tiles(width, height) == cost
    assert tokens.image({"url": data_url("png", png(width, height)), "detail": "high"}) == cost


def test_an_image_of_low_detail_costs_the_same_whatever_its_size() -> None:
    assert tokens.image({"url": data_url("png", png(4096, 8192)), "detail": "low"}) == 85


def test_an_image_that_is_only_linked_is_taken_for_a_square() -> None:
    assert tokens.image({"url": "https://example.com/cat.png"}) == 765
    assert tokens.image("https://example.com/cat.png") == 765
    assert tokens.image(None) == 765


def data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(40)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(40)


def jpeg(width: int, height: int) -> bytes:
    """With the segments that stand before a frame: JFIF, a comment, a table."""
    before = [(0xE0, b"JFIF\0" + bytes(9)), (0xFE, b"a comment"), (0xC4, bytes(20))]
    head = b"".join(b"\xff" + struct.pack(">BH", mark, len(data) + 2) + data for mark, data in before)
    frame = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width) + bytes(10)
    return b"\xff\xd8" + head + frame + bytes(40)


def webp(width: int, height: int) -> bytes:
    """The extended form."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + bytes(40)


def webp_lossy(width: int, height: int) -> bytes:
    frame = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + bytes(4) + b"WEBPVP8 " + struct.pack("<I", 100) + frame + bytes(40)


def webp_lossless(width: int, height: int) -> bytes:
    packed = (width - 1) | (height - 1) << 14
    return b"RIFF" + bytes(4) + b"WEBPVP8L" + struct.pack("<I", 100) + b"\x2f" + struct.pack("<I", packed) + bytes(40)


@pytest.mark.parametrize("kind", [png, gif, jpeg, webp, webp_lossy, webp_lossless])
def test_the_size_of_an_inlined_image_is_read_from_it(kind: Callable[[int, int], bytes]) -> None:
    assert tokens.image({"url": data_url("any", kind(512, 512))}) == 255
    assert tokens.image({"url": data_url("any", kind(2048, 4096))}) == 1105


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8" + bytes(100)).decode(),
        "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8\xff\xe0\x00\x00" + bytes(100)).decode(),
        "data:nothing",
    ],
)
def test_an_inlined_image_that_cannot_be_read_is_taken_for_a_square(url: str) -> None:
    assert tokens.image({"url": url}) == 765


def test_a_jpeg_that_never_comes_to_its_frame_is_given_up() -> None:
    endless = b"\xff\xd8" + b"\xff\xe1\x00\x02" * 100_000
    assert tokens.image({"url": data_url("jpeg", endless)}) == 765


def test_a_message_as_json_costs_the_same_as_before(count: Callable[[str], int]) -> None:
    message = {"role": "user", "content": "naïve 🙂 <|endoftext|>"}
    assert tokens.of_message(json.loads(json.dumps(message)), count) == tokens.of_message(message, count)
