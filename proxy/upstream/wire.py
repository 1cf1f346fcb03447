"""Server-sent events as bytes: where one ends, what it carries, how it is written. Pure: no I/O, no JSON.

Lines end at LF, CR or CRLF and nowhere else: `str.splitlines`, which also cuts at U+2028, U+0085, VT and FF, tears
model output apart. The fast path (LF only, one data line: what every large provider sends) is one split and no regex.
"""

import re

from proxy.errors import UpstreamBroken

EVENT_LIMIT = 4 * 1024 * 1024
"""Bytes of the largest event taken; an upstream that sends more is broken or hostile."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")


class Splitter:
    """Cuts a stream into raw events, whatever the pieces it comes in.

    An event is all bytes up to and with its blank line. When a piece ends in the CR of a blank line, the event is given
    out at once and an LF that follows is dropped: a CR-only stream must not wait for its next event.
    """

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._started = False
        self._has_cr = False
        self._drop_lf = False

    @property
    def rest(self) -> bytes:
        """The bytes of an event not finished yet; at the end of a stream, what came without its blank line."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes. Raises UpstreamBroken for one larger than the limit."""
        if self._drop_lf and data:
            self._drop_lf = False
            data = data.removeprefix(b"\n")
        if not self._started:
            data = self._start(data)
        if not data:
            return []
        if not self._has_cr and b"\r" in data:
            self._has_cr = True
        rest = self._rest
        if rest:
            seen = max(0, len(rest) - 3)  # a blank line may have begun there: CR LF CR
            rest += data
            if not self._ends_an_event(seen):
                self._check(len(rest))
                return []
            data = bytes(rest)
            rest.clear()
        return self._cut_any(data) if self._has_cr else self._cut_lf(data)

    def _start(self, data: bytes) -> bytes:
        """The first bytes of the stream without a byte order mark; b"" while they may still become one."""
        data = bytes(self._rest) + data
        self._rest.clear()
        if len(data) < 3 and _BOM.startswith(data):
            self._rest += data
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _ends_an_event(self, start: int) -> bool:
        if self._has_cr:
            return _BLANK_LINE.search(self._rest, start) is not None
        return self._rest.find(b"\n\n", start) >= 0

    def _cut_lf(self, data: bytes) -> list[bytes]:
        parts = data.split(b"\n\n")
        self._rest += parts.pop()
        events = [part + b"\n\n" for part in parts]
        if len(data) > self._limit:
            self._check(len(self._rest), *map(len, events))
        return events

    def _cut_any(self, data: bytes) -> list[bytes]:
        events, start = [], 0
        for blank in _BLANK_LINE.finditer(data):
            events.append(data[start : blank.end()])
            start = blank.end()
        self._drop_lf = start > 0 and start == len(data) and data.endswith(b"\r")
        self._rest += data[start:]
        if len(data) > self._limit:
            self._check(len(self._rest), *map(len, events))
        return events

    def _check(self, *sizes: int) -> None:
        if max(sizes) > self._limit:
            raise UpstreamBroken(f"the upstream sent an event of more than {self._limit:,} bytes; it was not read on")


def payload(raw: bytes) -> bytes | None:
    """What the data lines of an event say, joined by LF; None if it has none (a comment, a bare id or retry)."""
    if raw.startswith(b"data: ") and _is_one_lf_line(raw):
        return raw[6:-2]
    lines = [line[5:] for line in _LINE_END.split(raw) if line.startswith(b"data:") or line == b"data"]
    return b"\n".join([line.removeprefix(b" ") for line in lines]) if lines else None


def payloads(data: bytes) -> list[bytes]:
    """What each of some whole events says, without those that say nothing."""
    return [said for said in map(payload, Splitter().feed(data)) if said]


def event(data: bytes) -> bytes:
    """An event that carries `data`, as all clients understand it: data lines and LF only."""
    if b"\r" in data:
        data = _LINE_END.sub(b"\n", data)
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def relayable(raw: bytes) -> bytes | None:
    """An event of an upstream as clients may see it; None if there is nothing in it for them.

    One data line with LF goes through as it is. Anything else is rewritten: an `id:` or a bare `retry:` makes stock
    SDKs parse an empty payload as JSON and fail, and so would an empty data line.
    """
    if raw.startswith(b"data:") and _is_one_lf_line(raw):
        return raw if raw[5:-2].strip() else None
    data = payload(raw)
    return event(data) if data else None


def _is_one_lf_line(raw: bytes) -> bool:
    return raw.endswith(b"\n\n") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw
