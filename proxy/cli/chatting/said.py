"""What an answer's stream says: its events -> text, reasoning, calls of tools, how it ended. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from proxy.cli.chatting.clean import clean, one_line

Kind = Literal["text", "reasoning"]


@dataclass
class Said:
    """An answer as far as it has come. `problem`: why it broke off; `finish`: how the model ended it; `done`: all of it
    is there; `calls`: the tools that the model wants called, as name and arguments."""

    characters: int = 0
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish: str | None = None
    problem: str | None = None
    done: bool = False

    def take(self, payload: bytes) -> list[tuple[Kind, str]]:
        """What an event adds to what is shown."""
        if payload.strip() == b"[DONE]":
            self.done = True
            return []
        try:
            value = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.problem = "the proxy sent something that cannot be read"
            return []
        if not isinstance(value, dict):
            return []
        if value.get("error"):
            self.problem = message_of(value) or "the answer broke off"
            return []
        choice = _first(value.get("choices"))
        self.finish = _text(choice.get("finish_reason")) or self.finish
        return self._delta(choice.get("delta"))

    def _delta(self, delta: Any) -> list[tuple[Kind, str]]:
        if not isinstance(delta, Mapping):
            return []
        for call in delta.get("tool_calls") or ():
            self._call(call)
        thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        text = clean(_text(delta.get("content")) + _text(delta.get("refusal")))
        self.characters += len(text)
        shown: list[tuple[Kind, str]] = [("reasoning", clean(thought)), ("text", text)]
        return [(kind, piece) for kind, piece in shown if piece]

    def _call(self, call: Any) -> None:
        if isinstance(call, Mapping) and isinstance(call.get("index"), int):
            function = call.get("function")
            if isinstance(function, Mapping):
                known = self.calls.setdefault(call["index"], ["", ""])
                known[0] += _text(function.get("name"))
                known[1] += _text(function.get("arguments"))

    def wanted(self) -> list[str]:
        """The calls, each as a line."""
        return [one_line(f"{name}({arguments})", 200) for _, (name, arguments) in sorted(self.calls.items())]


def message_of(value: Any) -> str:
    """What an error envelope says, as part of a line; "" if it is none."""
    error = value.get("error") if isinstance(value, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    return one_line(message) if isinstance(message, str) else ""


def _first(choices: Any) -> Mapping[str, Any]:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def _text(value: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))
    return value if isinstance(value, str) else ""
