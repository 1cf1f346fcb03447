"""The history that the last turn of a branch sent, kept joined: the next turn sends it again and one exchange more.

A cache, never a truth: the log is append-only, so that what stood up to a turn stands for ever; a block is used only
when the branch's last turn and the cut's key are those it was made for. It saves a turn reading, pricing and joining
each message of its window.
"""

from collections import OrderedDict

import msgspec

LIMIT = 16 << 20
"""Bytes of all blocks together."""
LARGEST = 1 << 20
"""A longer history is read from the store each time, or a few sessions would take all the room."""


class Block(msgspec.Struct, frozen=True, gc=False):
    """Stored messages `first` to `first + count - 1` of a branch, joined by commas, up to and with `last_turn`.

    `before_tokens`: of the messages before `first`. `has_user`: whether a user message is among them. `cleared`: how
    many tool results are markers, which saves `saved` tokens.
    """

    last_turn: int
    cut_key: str
    first: int
    count: int
    tokens: int
    before_tokens: int
    has_user: bool
    raw: bytes
    cleared: int = 0
    saved: int = 0


class Forwarded:
    """Blocks by (session, branch), the least recently used ones dropped first."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._size = 0

    def get(self, session: int, branch: int, last_turn: int, cut_key: str) -> Block | None:
        block = self._blocks.get((session, branch))
        if block is None or block.last_turn != last_turn or block.cut_key != cut_key:
            return None
        self._blocks.move_to_end((session, branch))
        return block

    def put(self, session: int, branch: int, block: Block | None) -> None:
        """Keeps a branch's newest block, or forgets the old one."""
        old = self._blocks.pop((session, branch), None)
        self._size -= len(old.raw) if old is not None else 0
        if block is None or len(block.raw) > LARGEST:
            return
        self._blocks[session, branch] = block
        self._size += len(block.raw)
        while self._size > LIMIT:
            self._size -= len(self._blocks.popitem(last=False)[1].raw)
