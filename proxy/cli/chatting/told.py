"""What commands tell (history, branches, models, sessions, help) -> what rich renders; an answer's last line. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from proxy.cli.chatting.blocks import Block
from proxy.cli.chatting.clean import clean, one_line
from proxy.cli.chatting.markdown import Renderer
from proxy.cli.chatting.record import Entry, Record, asked, text_of

RESULT = 400
"""Characters of a tool's result that are shown."""


def history(entries: Sequence[Entry]) -> list[RenderableType]:
    """Messages, oldest first, each under the number of its turn."""
    shown: list[RenderableType] = []
    rendered = Renderer()
    for entry in entries:
        shown += [*([Text()] if shown else []), *_entry(entry, rendered)]
    return shown


def _entry(entry: Entry, rendered: Renderer) -> list[RenderableType]:
    role = str(entry.message.get("role"))
    who = {"user": "you", "assistant": one_line(entry.model, 60) or "assistant"}.get(role, one_line(role, 20))
    stopped = ", stopped" if entry.status == "incomplete" else ""
    head = Text(f"turn {entry.turn}, {who}{stopped}", style="bold")
    text = clean(text_of(entry.message))
    if role == "tool":
        return [head, Text(one_line(text, RESULT), style="dim")]
    said: list[RenderableType] = [head]
    if text.strip():
        said.append(rendered(Block("text", text)) if role == "assistant" else Text(text))
    for call in entry.message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            said.append(Text("calls " + one_line(f"{function.get('name')}({function.get('arguments')})", RESULT)))
    return said


def branches(listed: Sequence[Mapping[str, Any]], record: Record, chosen: int | None) -> list[RenderableType]:
    """All branches, each with the last thing that was asked on it; `chosen`: where the next message goes."""
    table = _table("left", "left", "right", "left")
    table.columns[3].no_wrap = True
    table.columns[3].overflow = "ellipsis"
    table.add_row("", "begins", "turns", "last asked", style="dim")
    for one in listed:
        number = one["id"]
        here = one["current"] if chosen is None else number == chosen
        begins = "at the start" if one["parent"] is None else f"{one['parent']}, turn {one['forked_at']}"
        last = one_line(asked(record.line(number)), 60)
        table.add_row(f"{'*' if here else ' '} {number}", begins, str(one["turns"]), last, style="bold" if here else "")
    return [table]


def models(names: Sequence[str], model: str | None) -> list[RenderableType]:
    """The models that may be asked for."""
    known = [*names] if model is None or model in names else [model, *names]
    return [
        Text(f"{'*' if name == model else ' '} {one_line(name, 100)}", style="bold" if name == model else "")
        for name in known
    ]


def sessions(listed: Sequence[Mapping[str, Any]], present: str) -> list[RenderableType]:
    """The newest sessions, each by the name that switches to it."""
    table = _table("left", "left")
    for one in listed:
        name = one.get("name") or one.get("id")
        here = present in (one.get("name"), one.get("id"))
        when = str(one.get("updated_at") or one.get("created_at") or "")[:16].replace("T", " ")
        table.add_row(f"{'*' if here else ' '} {one_line(str(name), 60)}", when, style="bold" if here else "")
    return [table]


def commands(rows: Iterable[tuple[str, str]]) -> list[RenderableType]:
    """What can be typed."""
    table = _table("left", "left")
    table.columns[0].no_wrap = True
    for usage, does in rows:
        table.add_row(usage, does)
    return [table]


def status(headers: Mapping[str, str]) -> str:
    """The line after an answer. `headers`: of the answer, names in lower case."""
    tokens = dict(part.split("=", 1) for part in headers.get("x-context-tokens", "").split(";") if "=" in part)
    said = [f"{name} {headers[key]}" for name, key in _PLACE if headers.get(key)]
    if "total" in tokens:  # the estimate is what the budget is compared with
        sent, budget = _thousands(tokens.get("estimate", tokens["total"])), tokens.get("budget", "none")
        said.append(f"{sent} tokens" if budget == "none" else f"{sent} of {_thousands(budget)} tokens")
    said += [f"{headers[key]} {words}" for key, words in _COUNTS if headers.get(key, "0") != "0"]
    if headers.get("x-upstream"):
        said.append(f"by {headers['x-upstream']}")
    return one_line(" | ".join(said))


_PLACE = (("turn", "x-session-turn"), ("branch", "x-session-branch"))
_COUNTS = (("x-context-recalled", "recalled"), ("x-context-dropped", "left out"))


def _thousands(number: str) -> str:
    return f"{int(number):,}" if number.isascii() and number.isdigit() else number


def _table(*columns: Any) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in columns:
        table.add_column(justify=justify)
    return table
