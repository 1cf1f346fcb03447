"""What the user types: a line, or several, with the lines of earlier chats at hand.

A line that ends in a backslash goes on in the next one; a paste keeps its line ends, where readline knows of pastes.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from proxy.cli.chatting.clean import clean

try:
    import readline
except ImportError:  # a Python built without it: the chat works, without history and editing
    readline = None

REMEMBERED = 1000
"""Inputs kept for later chats."""

_WORD = re.compile(r"/\w*\Z")


def history_file() -> Path | None:
    """Where the inputs of earlier chats are; None without a home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state) / "session-proxy" / "chat_history.jsonl"
    try:
        return Path.home() / ".local" / "state" / "session-proxy" / "chat_history.jsonl"
    except RuntimeError:
        return None


class History:
    """Inputs, one JSON string a line, readable by their user only. A folder that cannot be written keeps none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last: str | None = None

    def read(self) -> list[str]:
        """The newest inputs, oldest first; a file that has grown is cut back to them."""
        if self._path is None:
            return []
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except OSError:
            return []
        kept = [text for text in map(_string, lines[-REMEMBERED:]) if text]
        if len(lines) > 2 * REMEMBERED:
            with contextlib.suppress(OSError):
                beside = self._path.with_suffix(f".{os.getpid()}")
                with open(_private(beside, os.O_TRUNC), "wb") as file:
                    file.write(b"".join(map(_line, kept)))
                beside.replace(self._path)
        self._last = kept[-1] if kept else None
        return kept

    def add(self, text: str) -> None:
        """Keeps an input, but for one that repeats the last."""
        if self._path is None or text == self._last:
            return
        self._last = text
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(_private(self._path, os.O_APPEND), "wb") as file:
                file.write(_line(text))


class Prompt:
    """The line that is edited. `words`: the commands that the tab key completes."""

    def __init__(self, history: History, words: Sequence[str]) -> None:
        self._history = history
        self._words = words
        if readline is not None:
            _editing(readline, self._complete)
            for text in history.read():
                readline.add_history(text)

    def ask(self) -> str:
        """What is typed. Raises EOFError at its end, KeyboardInterrupt for Ctrl-C."""
        text = clean("\n".join(joined(self._lines())))
        if text.strip():
            self._history.add(text)
            if readline is not None:
                readline.add_history(text)
        return text

    def _lines(self) -> Iterator[str]:
        """Until a whole input has come."""
        mark = "> "
        while True:
            yield input(f"\x01\x1b[1m\x02{mark}\x01\x1b[0m\x02" if readline is not None else mark)
            mark = "... "

    def _complete(self, text: str, state: int) -> str | None:
        if not _WORD.match(text):
            return None
        return [*(word + " " for word in self._words if word.startswith(text)), None][state]


def joined(lines: Iterable[str]) -> list[str]:
    """The lines of the next input: up to and with the first one that does not end in a backslash. Empty at the end."""
    taken: list[str] = []
    for line in lines:
        if not line.endswith("\\"):
            return [*taken, line]
        taken.append(line[:-1])
    return taken


def piped(lines: Iterator[str]) -> Iterator[str]:
    """The inputs that come through a pipe, without empty ones."""
    stripped = (line.removesuffix("\n") for line in lines)
    while taken := joined(stripped):
        text = clean("\n".join(taken))
        if text.strip():
            yield text


def _editing(readline: ModuleType, complete: Callable[[str, int], str | None]) -> None:
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off
        readline.parse_and_bind("tab: complete")
    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.set_auto_history(False)


def _private(path: Path, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)


def _line(text: str) -> bytes:
    return json.dumps(text).encode() + b"\n"


def _string(line: bytes) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def is_terminal() -> bool:
    """Whether somebody sits at both ends, before a terminal that can be painted."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
