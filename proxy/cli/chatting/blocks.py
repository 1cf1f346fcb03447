"""A streamed answer -> blocks of Markdown that no later word can change, and the one that is still open. Pure.

A terminal cannot take back what has scrolled away. So a block (paragraph, list, fence, table) is printed for good once
the next one has begun, and only the open one is painted again and again. Blocks are found in whole lines: what a line
is may change until its end, but for one that has begun after a blank line.

An open block that grows high gives away its head: the lines of a fence, the items of a list, the rows of a paragraph.
Where it cannot (a table) it stays whole.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from proxy.cli.chatting.said import Kind

NESTING = 20
"""How deep lists (two levels each) and quotes may stand in each other. The parser drops what is deeper."""
KEPT = 3
"""Rows or lines at the end of a block that stay open when its head is given away."""
CONTEXT = 100
"""Lines of code given away that still tell how the next ones are coloured."""
TRIES = 6
"""Places at which a paragraph is tried to be cut."""
PATIENCE = 200
"""Characters by which one that could not be cut has to grow before it is tried again."""
_UNDECIDED = re.compile(r"\s*(\d{0,9}[.)]?|[-+*])\s*")
"""The beginning of a line that may become an item of a list, or not."""

Rows = Callable[[str], list[str]]
"""A source -> the rows that it takes on the screen."""


@dataclass(frozen=True)
class Block:
    """Something to show. `joined`: it goes on directly under what stands above it; `lines`: of a fence, the first and
    the last of its lines that are shown (None: to its end)."""

    kind: Kind
    source: str
    joined: bool = False
    lines: tuple[int, int | None] = (1, None)


def parser() -> MarkdownIt:
    """Markdown as models write it. HTML and the definitions of links are text: what a model says is never hidden."""
    settings = {"html": False, "maxNesting": NESTING}
    return MarkdownIt("commonmark", settings).enable(["table", "strikethrough"]).disable("reference")


class Blocks:
    """An answer as it comes."""

    def __init__(self) -> None:
        self._parser = parser().disable("inline")
        self._kind: Kind = "text"
        self._source = ""
        self._joined = False
        self._given = 0  # lines of the open fence that were given away
        self._tried = 0  # characters of the open paragraph when it could not be cut
        self._begun = False  # whether blocks were looked for since the last line began

    def add(self, kind: Kind, text: str) -> list[Block]:
        """The blocks that this closes."""
        closed = [] if kind == self._kind else self.end()
        self._kind = kind
        self._source += text
        if not self._source.strip():
            self._source = ""  # blank lines before a block say nothing; spaces before code would
            return closed
        self._source = self._source.lstrip("\n")
        if "\n" in text:
            self._begun = False
            whole = self._source.rfind("\n") + 1
            closed += self._lines() if kind == "reasoning" else self._blocks(whole)
        if kind == "text" and not self._begun and self._begins():
            self._begun = True
            closed += self._blocks(len(self._source))
        return closed

    def shorten(self, rows: Rows) -> list[Block]:
        """The head of an open block that has grown high; none if it has to stay whole."""
        tokens = self._parser.parse(self._source) if self._kind == "text" else []
        if len([token for token in tokens if token.level == 0 and token.nesting >= 0]) > 1:
            return []  # the last line will tell
        kind = tokens[0].type if tokens else "paragraph_open"
        if kind == "fence":
            return self._fence(tokens[0])
        if kind == "paragraph_open":
            return self._paragraph(rows)
        items = [token.map[0] for token in tokens if token.type == "list_item_open" and token.level == 1 and token.map]
        if not kind.endswith("list_open") or len(items) < 2:
            return []
        lines = self._source.split("\n")
        return [self._cut("\n".join(lines[: items[-1]]) + "\n", "\n".join(lines[items[-1] :]))]

    def end(self) -> list[Block]:
        """What is left, when nothing more comes."""
        closed = self._blocks(len(self._source)) if self._kind == "text" else []
        last = self.open
        self._source, self._joined, self._given, self._tried = "", False, 0, 0
        return [*closed, last] if last else closed

    @property
    def open(self) -> Block | None:
        """What may still change."""
        if not self._source.strip():
            return None
        return Block(self._kind, self._source, self._joined, (self._given + 1, None))

    def _begins(self) -> bool:
        """Whether the last line stands after a blank one and shows what it is."""
        head, _, line = self._source.rpartition("\n")
        return "\n" in head and not head.rpartition("\n")[2].strip() and not _UNDECIDED.fullmatch(line)

    def _blocks(self, upto: int) -> list[Block]:
        """All but the last of the blocks that the source makes up to a place."""
        lines = re.findall(r"[^\n]*\n|[^\n]+", self._source[:upto])
        tokens = self._parser.parse(self._source[:upto])
        starts = [token.map[0] for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]
        closed = []
        for start, end in pairwise(starts):
            closed.append(Block("text", "".join(lines[start:end]), self._joined, (self._given + 1, None)))
            self._joined, self._given = False, 0
        if closed:
            self._source, self._tried = "".join(lines[starts[-1] :]) + self._source[upto:], 0
        return closed

    def _lines(self) -> list[Block]:
        whole, _, rest = self._source.rpartition("\n")
        return [self._cut(whole + "\n", rest)] if whole.strip() else []

    def _fence(self, fence: Token) -> list[Block]:
        """Its lines up to the last ones. They stay in the source: a text that they opened is coloured to its end."""
        last = self._source.count("\n") - 1 - KEPT
        if last <= self._given:
            return []
        head = Block("text", self._source, self._joined, (self._given + 1, last))
        self._joined, self._given = True, last
        if last > CONTEXT:
            first, *code = self._source.split("\n")
            self._source, self._given = "\n".join([first, *code[last - CONTEXT :]]), CONTEXT
        return [head]

    def _paragraph(self, rows: Rows) -> list[Block]:
        """Its rows up to the last ones, cut so that the two parts look as the whole does."""
        if self._tried and len(self._source) < self._tried + PATIENCE:
            return []
        whole = rows(self._source)
        spaces = [at for at, letter in enumerate(self._source) if letter in " \n"]
        for want in range(len(whole) - KEPT, max(0, len(whole) - KEPT - TRIES), -1):
            place = bisect_right(spaces, want, key=lambda at: len(rows(self._source[:at]))) - 1
            if place < 0:
                break
            head, rest = self._source[: spaces[place]], self._source[spaces[place] + 1 :]
            if [*rows(head), *rows(rest)] == whole:
                return [self._cut(head, rest)]
        self._tried = len(self._source)
        return []

    def _cut(self, head: str, rest: str) -> Block:
        block = Block(self._kind, head, self._joined)
        self._source, self._joined, self._tried = rest, True, 0
        return block
