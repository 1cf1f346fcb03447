"""Where the chat is shown: a terminal that is painted, or plain text for a pipe.

Intentional: not rich's Live, which neither crops an answer at its top nor knows that a terminal wraps lines anew when
it becomes narrower. What is finished is written once and scrolls away like any output; below it the open block is
painted again at each piece that comes. From half of the screen on it gives away its head where it can, so that the
whole of it can be erased also after the terminal has become narrower; higher than the screen it is never painted.
"""

import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import IO, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from proxy.cli.chatting.blocks import Block, Blocks
from proxy.cli.chatting.markdown import Renderer
from proxy.cli.chatting.said import Kind

SMALLEST = 20
"""Columns to which an answer is fitted at the least."""
_SYNCHRONIZED, _SHOW = "\x1b[?2026h", "\x1b[?2026l"
"""Terminals that know these show all that stands between them at once."""
_ERASE, _ERASE_BELOW = "\x1b[2K", "\x1b[J"
_TRAILING = re.compile(r"[ \t]+$")

Row = tuple[str, int]
"""A line with its colours, and how many columns it takes."""


class Answer(Protocol):
    """An answer while it comes."""

    def add(self, pieces: Sequence[tuple[Kind, str]]) -> None:
        """More of it, as `Said.take` gives it."""
        ...

    def end(self) -> None:
        """Nothing more comes; always called."""
        ...


class Screen:
    """What the chat prints. `live`: on a terminal; else results go to stdout, notes and problems to stderr."""

    def __init__(self, live: bool, out: TextIO | None = None, notes: TextIO | None = None) -> None:
        self.live = live
        out, notes = out or sys.stdout, notes or (sys.stdout if live else sys.stderr)
        self.console = _console(out, live)
        self.notes = self.console if live and notes is out else _console(notes, live)

    def note(self, text: str, style: str = "dim") -> None:
        """A line about the chat."""
        self.notes.print(Text(text, style=style), soft_wrap=not self.live)

    def problem(self, text: str) -> None:
        """What went wrong, and what to do."""
        self.notes.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=not self.live)

    def show(self, *parts: RenderableType) -> None:
        """What a command tells."""
        rows = [row for part in parts for row in lines(self.console, part) or [("", 0)]]
        print(*(text for text, _ in rows), sep="\n", file=self.console.file, flush=True)

    def gap(self) -> None:
        """A blank line between what is asked and what is answered."""
        if self.live:
            self.console.print()

    def answer(self) -> Answer:
        """A place for an answer."""
        return Painted(self.console) if self.live else Plain(self.console.file)


class Plain:
    """The text as it comes, without reasoning: another program reads it."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._last = ""

    def add(self, pieces: Sequence[tuple[Kind, str]]) -> None:
        text = "".join(piece for kind, piece in pieces if kind == "text")
        if text:
            self._last = text[-1]
            print(text, end="", file=self._out, flush=True)

    def end(self) -> None:
        if self._last not in ("", "\n"):
            print(file=self._out, flush=True)


class Painted:
    """An answer on a terminal: its closed blocks above, the open one below, painted again while it grows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._blocks = Blocks()
        self._rendered = Renderer()
        self._first = True
        self._painter = Painter(console.file, lambda: console.size)
        self._painter.paint([], lines(console, Text("waiting; Ctrl-C stops", style="dim")))

    def add(self, pieces: Sequence[tuple[Kind, str]]) -> None:
        closed: list[Row] = []
        for kind, text in pieces:
            closed += self._rows(self._blocks.add(kind, text))
        tail = self._open()
        if len(tail) >= self._console.height // 2:
            closed += self._rows(self._blocks.shorten(self._looks))
            tail = self._open()
        if closed or tail:
            self._painter.paint(closed, tail[-max(3, self._console.height - 1) :])

    def end(self) -> None:
        self._painter.paint(self._rows(self._blocks.end()), [])

    def _open(self) -> list[Row]:
        block, first = self._blocks.open, self._first
        rows = self._rows([block]) if block else []
        self._first = first
        return rows

    def _looks(self, source: str) -> list[str]:
        """The rows of a part of the open block."""
        block = self._blocks.open
        part = Block(block.kind if block else "text", source)
        return [text for text, _ in lines(self._console, self._rendered(part))]

    def _rows(self, blocks: Sequence[Block]) -> list[Row]:
        rows: list[Row] = []
        for block in blocks:
            if not (block.joined or self._first):
                rows.append(("", 0))
            self._first = False
            rows += lines(self._console, self._rendered(block))
        return rows


class Painter:
    """The lower end of a terminal: rows that stay, and under them rows that are painted again."""

    def __init__(self, out: IO[str], size: Callable[[], tuple[int, int]]) -> None:
        self._out = out
        self._size = size
        self._painted: list[int] = []

    def paint(self, stay: Sequence[Row], again: Sequence[Row]) -> None:
        """Writes `stay` for good where the rows painted last were, and `again` below.

        Each row is erased as it is written, what is left below them at the end: a terminal that is told to erase all of
        its screen may take that for scrolling, and keep a copy.
        """
        width, height = self._size()
        up = min(height, self._height(width)) - 1
        written = [f"\r\x1b[{up}A" if up > 0 else "\r"]
        written += [f"{_ERASE}{text}\n" for text, _ in stay]
        written.append("\n".join(f"{_ERASE}{text}" for text, _ in again) or _ERASE)
        if up > 0:
            written.append(_ERASE_BELOW)
        self._painted = [cells for _, cells in again]
        print(_SYNCHRONIZED, *written, _SHOW, sep="", end="", file=self._out, flush=True)

    def _height(self, width: int) -> int:
        """How many rows they take now: a terminal that became narrower has wrapped those that no longer fit."""
        return sum(max(1, math.ceil(cells / max(1, width))) for cells in self._painted)


def lines(console: Console, part: RenderableType) -> list[Row]:
    """What a part looks like, line by line, a column narrower than the terminal: one that counts an emoji otherwise
    shall not wrap. Blank lines at its ends are left out."""
    options = console.options.update(width=max(SMALLEST, console.width - 1))
    rows = _coloured(console, [_bare(line) for line in console.render_lines(part, options, pad=False)])
    while rows and not rows[-1][0]:
        rows.pop()
    while rows and not rows[0][0]:
        rows.pop(0)
    return rows


def _bare(line: Sequence[Segment]) -> list[Segment]:
    """Without the spaces at its end, which only fill it up."""
    kept = list(line)
    while kept:
        text, style, _ = kept.pop()
        text = _TRAILING.sub("", text)
        if text:
            kept.append(Segment(text, style))
            break
    return kept


def _coloured(console: Console, rows: Sequence[list[Segment]]) -> list[Row]:
    every = [segment for row in rows for segment in (*row, Segment.line())]
    with console.capture() as captured:
        console.print(Segments(every), end="", soft_wrap=True)
    texts = captured.get().split("\n")
    return [(text, sum(segment.cell_length for segment in row)) for text, row in zip(texts, rows, strict=False)]


def _console(out: TextIO, live: bool) -> Console:
    """Text of others is no markup here."""
    return Console(
        file=out,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=live,
        color_system="auto" if live else None,
    )
