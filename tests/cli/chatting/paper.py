"""A terminal in memory, as far as the chat paints on it: rows that scroll away, are painted over, and wrap anew."""

import re

from rich.cells import cell_len

TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Paper:
    """A file to write to. `rows`: all of them, those that have scrolled away first; a row that is wrapped goes on in
    the next one."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows: list[str] = [""]
        self.wrapped: list[bool] = [False]
        self.y = 0

    def write(self, data: str) -> int:
        for token in TOKEN.finditer(data):
            number, order, line_end, text = token.groups()
            if text:
                self._text(text)
            elif line_end == "\n":
                self.y += 1
                if self.y == len(self.rows):
                    self._append("")
            elif order:
                self._order(number, order)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return True

    @property
    def top(self) -> int:
        return max(0, len(self.rows) - self.height)

    def resize(self, width: int, height: int) -> None:
        """As most terminals do it: what was wrapped is joined, and wrapped at the new width. The cursor stays in the
        last row, where the chat leaves it."""
        joined = self._lines()
        self.width, self.height = width, height
        self.rows, self.wrapped = [], []
        for line in joined:
            parts = [line[at : at + width] for at in range(0, len(line), width)] or [""]
            for index, part in enumerate(parts):
                self._append(part, index < len(parts) - 1)
        self.y = len(self.rows) - 1

    def text(self) -> str:
        """All that was written, as lines that were not wrapped."""
        return "\n".join(line.rstrip() for line in self._lines()).strip("\n")

    def _lines(self) -> list[str]:
        joined: list[str] = []
        going_on = False
        for row, wrapped in zip(self.rows, self.wrapped, strict=True):
            if going_on:
                joined[-1] += row
            else:
                joined.append(row)
            going_on = wrapped
        return joined

    def _append(self, row: str, wrapped: bool = False) -> None:
        self.rows.append(row)
        self.wrapped.append(wrapped)

    def _text(self, text: str) -> None:
        assert cell_len(text) + cell_len(self.rows[self.y]) < self.width, "a row that wraps"
        self.rows[self.y] += text

    def _order(self, number: str, order: str) -> None:
        if order == "A":
            self.y = max(self.top, self.y - int(number or 1))
        elif order == "K":
            assert number == "2"
            self.rows[self.y], self.wrapped[self.y] = "", False
        elif order == "J":
            assert self.y > self.top or self.rows[self.y], "erasing the whole screen keeps a copy in some terminals"
            del self.rows[self.y + 1 :], self.wrapped[self.y + 1 :]
        else:
            assert order in ("h", "l", "m"), f"an order it does not know: {order}"
