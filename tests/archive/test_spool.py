"""Parts wait for the store, in memory or on the disk, and come back as often as asked."""

import tempfile
from pathlib import Path

import pytest

from proxy.archive import spool
from proxy.errors import Unavailable
from proxy.resources import Doc, Member, Tool
from proxy.store.archive import (
    BranchPart,
    DocPart,
    EntryPart,
    InstructionsPart,
    MemberPart,
    Part,
    SessionPart,
    ToolPart,
    TurnPart,
)
from proxy.types import Message

PARTS: list[Part] = [
    SessionPart("u", None, None, "null", 1, 1, 2, -5, 6, b"{}", ("a",), (), (("m:a", "\x00"),)),
    MemberPart(Member(0, "user", "m", 1, 2, b"{}"), (("m:b", ""),)),
    ToolPart(Tool(0, "t", "look", 1, 2, b"\xff")),
    DocPart(Doc(0, "d", 3, "\u2028", b"{}", b"[]"), (("text", 1),), ()),
    InstructionsPart(1, b"", 0),
    TurnPart(1, 1, 1, 2, "incomplete", "m", None, "r", b"{}", None, 2**53),
    EntryPart(1, 1, 1, 5, Message("user", b"{}", b"0" * 16, 5, 0, "complete", None)),
    BranchPart(1, None, 0, 1, 5, b"", "complete", 1, 0, "", 1, 0),
]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_parts_come_back_as_often_as_asked(count: int) -> None:
    with spool.opened() as kept:
        for _ in range(count):
            for part in PARTS:
                spool.add(kept, part)
        assert [list(spool.parts(kept)) for _ in range(2)] == [PARTS * count] * 2


def test_large_parts_go_to_the_disk() -> None:
    large = ToolPart(Tool(0, "t", "look", 1, 2, b"x" * (spool.IN_MEMORY + 1)))
    with spool.opened() as kept:
        spool.add(kept, large)
        assert kept.fileno() > 2, "a file of its own"
        spool.add(kept, PARTS[0])
        assert list(spool.parts(kept)) == [large, PARTS[0]]


def test_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(Unavailable, match="temporary files"):
        spool.add(full, PARTS[0])
    with tempfile.TemporaryFile() as kept:
        spool.add(kept, PARTS[0])
