"""A session's export -> what was said on each of its branches. Pure.

The Sessions API shows the current branch without the numbers of its turns; the export has all branches with them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True)
class Entry:
    """A message, its turn, and the model that the turn asked (empty: none)."""

    turn: int
    seq: int
    status: str
    model: str
    message: Mapping[str, Any]


@dataclass
class Record:
    """A session. `parents`: of each branch the one that it begins on, and the last entry that it shares with it."""

    current: int = 1
    turns: int = 0
    parents: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    entries: dict[int, list[Entry]] = field(default_factory=dict)

    def line(self, branch: int) -> list[Entry]:
        """What was said on a branch, from the beginning of the conversation."""
        parts: list[list[Entry]] = []
        at: int | None = branch
        upto = None
        while at is not None and len(parts) <= len(self.parents):
            own = self.entries.get(at, [])
            parts.append([entry for entry in own if upto is None or entry.seq <= upto])
            parent, forked_at = self.parents.get(at, (None, 0))
            upto = forked_at if upto is None else min(upto, forked_at)
            at = parent
        return [entry for part in reversed(parts) for entry in part]


def read(lines: Iterable[Any]) -> Record:
    """The record that an export's lines make."""
    record = Record()
    turns: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        match line.get("type"):
            case "session":
                record.current, record.turns = line["branch"], line["turns"]
            case "branch":
                record.parents[line["number"]] = (line["parent"], line["forked_at"])
            case "turn":
                turns[line["number"]] = line
            case "entry":
                turn = turns[line["turn"]]
                entry = Entry(line["turn"], line["seq"], line["status"], turn["model"], _message(line["message"]))
                record.entries.setdefault(turn["branch"], []).append(entry)
    return record


def newest(entries: list[Entry], turns: int) -> list[Entry]:
    """The messages of the last turns of a line."""
    numbers = list(dict.fromkeys(entry.turn for entry in entries))
    wanted = set(numbers[-turns:] if turns > 0 else numbers)
    return [entry for entry in entries if entry.turn in wanted]


def asked(entries: list[Entry]) -> str:
    """The last thing that a user said on a line."""
    return next((text_of(one.message) for one in reversed(entries) if one.message.get("role") == "user"), "")


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says; other parts than text by their kind."""
    content = message.get("content")
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in content if isinstance(part, Mapping)]
    return "\n".join(str(part.get("text")) if part.get("type") == "text" else f"[{part.get('type')}]" for part in parts)


def _message(value: Any) -> Mapping[str, Any]:
    """Stands in its line as it is, or, where it holds a line end, as a text."""
    value = msgspec.json.decode(value) if isinstance(value, str) else value
    return value if isinstance(value, Mapping) else {}
