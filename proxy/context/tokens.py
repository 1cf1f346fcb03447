"""What a message, a tool or an image costs in o200k tokens. Pure; the counter comes from tokenizer.py.

Text is counted with tiktoken, a message adds a fixed frame (OpenAI's cookbook "How to count tokens": 3 a message
and 1 for the role, 1 for a name, 3 before the reply). Images follow OpenAI's published tiles: 85 tokens, and in high
detail 170 for each 512-pixel tile after fitting into 2048 x 2048 and scaling the short side to 768.
"""

import base64
import binascii
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Count = Callable[[str], int]
"""The number of o200k tokens of a text."""

FRAME = 4
NAME = 1
REPLY = 3
"""The tokens that open the reply; part of every prompt."""
TOOL_FRAME = 8
"""What wraps one tool's schema; measured on OpenAI's models by several authors, between 7 and 10."""
IMAGE_LOW = 85
IMAGE_TILE = 170
UNKNOWN_SIZE = (1024, 1024)
"""The size assumed for an image that is only linked: the proxy fetches no images."""
AUDIO_PER_SECOND = 10
FILE_PER_KB = 250


def of_message(value: Mapping[str, Any], count: Count) -> int:
    """The raw tokens of one message, calls and parts included."""
    total = FRAME + _content(value.get("content"), count)
    if value.get("name"):
        total += NAME + count(str(value["name"]))
    for call in value.get("tool_calls") or ():
        total += _call(call, count)
    if value.get("function_call"):
        total += _call({"function": value["function_call"]}, count)
    if value.get("audio"):
        total += _spoken(value["audio"], count)
    for key in ("refusal", "reasoning_content", "reasoning"):
        if isinstance(value.get(key), str):
            total += count(value[key])
    return total


def of_tools(schemas: Sequence[bytes], count: Count) -> int:
    """The raw tokens of a request's tools, each given as its JSON."""
    return sum(TOOL_FRAME + count(schema.decode("utf-8", "replace")) for schema in schemas)


def _content(content: Any, count: Count) -> int:
    if isinstance(content, str):
        return count(content)
    if not isinstance(content, Sequence):
        return 0
    return sum(_part(part, count) for part in content)


def _part(part: Any, count: Count) -> int:
    if not isinstance(part, Mapping):
        return 0
    kind = part.get("type")
    if kind == "image_url":
        return image(part.get("image_url"))
    if kind == "input_audio":
        return _audio(part.get("input_audio"))
    if kind == "file":
        return _file(part.get("file"))
    text = part.get("text") or part.get("refusal")
    return count(text) if isinstance(text, str) else 0


def _call(call: Any, count: Count) -> int:
    made = (call.get("function") or call.get("custom") or {}) if isinstance(call, Mapping) else {}
    if not isinstance(made, Mapping):
        return 0
    given = made.get("arguments") or made.get("input") or ""
    return 3 + count(str(made.get("name") or "")) + count(given if isinstance(given, str) else str(given))


def image(value: Any) -> int:
    """The tokens of an image part's `image_url` value, from its `detail` and, where inlined, its real size."""
    url = value.get("url") if isinstance(value, Mapping) else value
    detail = value.get("detail") if isinstance(value, Mapping) else None
    if detail == "low":
        return IMAGE_LOW
    width, height = (_inlined(url) if isinstance(url, str) else None) or UNKNOWN_SIZE
    return IMAGE_LOW + IMAGE_TILE * tiles(width, height)


def tiles(width: int, height: int) -> int:
    """How many 512-pixel tiles an image of this size is cut into, by OpenAI's rule."""
    scale = min(1.0, 2048 / max(width, height, 1))
    width, height = int(width * scale), int(height * scale)
    scale = min(1.0, 768 / max(min(width, height), 1))
    width, height = int(width * scale), int(height * scale)
    return max(1, -(-width // 512)) * max(1, -(-height // 512))


def _inlined(url: str) -> tuple[int, int] | None:
    """Width and height of a data: URL's PNG, GIF, JPEG or WebP; None when they cannot be read."""
    if not url.startswith("data:"):
        return None
    encoded = url[url.find(",") + 1 :][:65536]
    try:
        data = base64.b64decode(encoded[: len(encoded) // 4 * 4], validate=False)
        return _size(data)
    except (binascii.Error, ValueError, struct.error, IndexError):
        return None


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG"):
        return struct.unpack(">II", data[16:24])
    if data[:4] == b"GIF8":
        return struct.unpack("<HH", data[6:10])
    if data[:4] == b"RIFF":
        return _webp(data)
    return _jpeg(data) if data[:2] == b"\xff\xd8" else None


def _webp(data: bytes) -> tuple[int, int] | None:
    """The three layouts of WebP: extended, lossless (two 14-bit numbers), lossy (a VP8 key frame)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return (width & 0x3FFF, height & 0x3FFF) if kind == b"VP8 " else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Walks the segments to the frame header (SOF0 to SOF15, without the tables DHT, JPG, DAC)."""
    at = 2
    while at + 9 < len(data):
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _audio(value: Any) -> int:
    """Ten tokens a second, the length guessed from the bytes: 16 KB a second is MP3 at 128 kbit/s."""
    data = value.get("data") if isinstance(value, Mapping) else None
    return AUDIO_PER_SECOND * (1 + len(data) * 3 // 4 // 16000) if isinstance(data, str) else 0


def _spoken(audio: Any, count: Count) -> int:
    """An answer that was spoken goes up by its id, and counts there as the sound that it is, or as its transcript."""
    said = audio.get("transcript") if isinstance(audio, Mapping) else None
    return max(_audio(audio), count(said) if isinstance(said, str) else 0)


def _file(value: Any) -> int:
    """An inlined file is priced by its size, as text of four bytes a token; one named by id is not known."""
    data = value.get("file_data") if isinstance(value, Mapping) else None
    return FILE_PER_KB * (1 + len(data) * 3 // 4 // 1000) if isinstance(data, str) else 0
