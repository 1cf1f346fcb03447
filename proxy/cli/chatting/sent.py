"""What a turn sent: its ledger -> a bar of tokens, a legend, and what was left out, why. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from proxy.cli.chatting.clean import one_line

WIDEST = 72
"""Columns of the bar at the most."""

Ledger = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A kind of text that was sent. `letter` stands for it in the bar where there are no colours."""

    name: str
    style: str
    letter: str
    sources: tuple[str, ...]


PARTS = (
    Part("system", "blue", "S", ("system",)),
    Part("tools", "magenta", "T", ("tools",)),
    Part("summary", "cyan", "U", ("summary",)),
    Part("history", "green", "H", ("history",)),
    Part("recall", "yellow", "R", ("recall_history", "recall_doc")),
    Part("new", "red", "N", ("new",)),
)


def shares(amounts: Sequence[int], width: int) -> list[int]:
    """Columns for each amount, `width` in all; one for what is small but there. All zeros for nothing at all."""
    total = sum(amounts)
    there = [index for index, amount in enumerate(amounts) if amount > 0]
    given = [0] * len(amounts)
    if not there or width < len(there):
        return given
    for index in there:
        given[index] = 1 + amounts[index] * (width - len(there)) // total
    by_rest = sorted(there, key=lambda index: amounts[index] * (width - len(there)) % total, reverse=True)
    for index in by_rest[: width - sum(given)]:
        given[index] += 1
    return given


def context(ledger: Ledger, width: int, plain: bool) -> list[RenderableType]:
    """The whole of it. `plain`: letters in place of colours."""
    segments = [one for one in ledger.get("segments") or () if isinstance(one, Mapping)]
    head = [f"turn {_number(ledger.get('turn'))}", f"branch {_number(ledger.get('branch'))}"]
    head += [one_line(str(ledger[key]), 60) for key in ("strategy", "model", "status") if ledger.get(key)]
    if not segments:
        return [Text(", ".join(head), style="bold"), Text("it asked no model: nothing was sent")]
    shown = [Text(", ".join(head), style="bold"), _bar(ledger, segments, min(width, WIDEST), plain)]
    return [*shown, _legend(segments, plain), Text(_sums(ledger)), *_left_out(segments)]


def _tokens(segments: Sequence[Ledger], part: Part) -> int:
    return sum(_count(one.get("tokens")) for one in _kept(segments, part))


def _kept(segments: Sequence[Ledger], part: Part) -> list[Ledger]:
    return [one for one in segments if one.get("kept") and one.get("source") in part.sources]


def documents(ledger: Ledger) -> list[str]:
    """The ids of the documents that were found for a turn."""
    segments = [one for one in ledger.get("segments") or () if isinstance(one, Mapping)]
    found = [one["id"] for one in segments if one.get("source") == "recall_doc" and isinstance(one.get("id"), str)]
    return list(dict.fromkeys(found))


def titled(ledger: Ledger, titles: Mapping[str, str]) -> Ledger:
    """The ledger with the titles of documents, by their ids."""
    segments = [one for one in ledger.get("segments") or () if isinstance(one, Mapping)]
    return {
        **ledger,
        "segments": [
            {**one, "title": titles[one["id"]]} if isinstance(one.get("id"), str) and one["id"] in titles else one
            for one in segments
        ],
    }


def _bar(ledger: Ledger, segments: Sequence[Ledger], width: int, plain: bool) -> Text:
    """As wide as the budget, or as what was sent where there is none. The budget counts as the model does, the
    segments as the proxy does."""
    amounts = [_tokens(segments, part) for part in PARTS]
    budget, estimate = _count(ledger.get("budget")), _count(ledger.get("estimate"))
    free = max(0, budget - estimate) * sum(amounts) // estimate if budget and estimate else 0
    bar = Text()
    for part, columns in zip(PARTS, shares([*amounts, free], width), strict=False):
        bar.append((part.letter if plain else "█") * columns, "" if plain else part.style)
    return bar.append(("." if plain else "░") * (width - len(bar) if free else 0), "dim")


def _legend(segments: Sequence[Ledger], plain: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    total = sum(_tokens(segments, part) for part in PARTS) or 1
    for part in PARTS:
        kept = _kept(segments, part)
        if kept:
            mark = Text.assemble((part.letter if plain else "█", "" if plain else part.style), f" {part.name}")
            tokens = _tokens(segments, part)
            table.add_row(mark, f"{tokens:,}", f"{round(100 * tokens / total)} %", _places(kept))
    return table


def _places(kept: Sequence[Ledger]) -> str:
    """Which messages, turns or documents they are."""
    first = kept[0]
    if first.get("source") in ("recall_history", "recall_doc"):
        return ", ".join(_piece(one) for one in kept[:8]) + (", ..." if len(kept) > 8 else "")
    said = []
    if first.get("count") is not None:
        said.append(_messages(sum(_count(one.get("count")) for one in kept)))
    if first.get("from") is not None:
        said.append(f"{_number(first['from'])} to {_number(kept[-1].get('to'))}")
    return ", ".join(said)


def _piece(one: Ledger) -> str:
    """A recalled turn or document; of one that went with an earlier request of a tool loop only that."""
    if one.get("id") is None:
        return one_line(str(one.get("reason") or "?"), 60)
    if one.get("source") == "recall_doc":
        return one_line(str(one.get("title") or "a document"), 40)
    return f"turn {_number(one['id'])}"


def _sums(ledger: Ledger) -> str:
    budget, usage = _count(ledger.get("budget")), ledger.get("usage")
    said = f"sent {_count(ledger.get('total')):,} tokens, about {_count(ledger.get('estimate')):,} for the model, "
    said += f"budget {budget:,}" if budget else "no budget"
    if isinstance(usage, Mapping) and _count(usage.get("prompt_tokens")):
        details = usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
        said += f"; the model counted {_count(usage['prompt_tokens']):,}" + (f" ({cached:,} cached)" if cached else "")
    return said


def _left_out(segments: Sequence[Ledger]) -> list[RenderableType]:
    left = [one for one in segments if not one.get("kept")]
    if not left:
        return [Text("nothing was left out", style="dim")]
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    for one in left:
        what = _piece(one) if one.get("source") in ("recall_history", "recall_doc") else _stretch(one)
        why = one_line(str(one.get("reason") or ""), 80)
        if isinstance(one.get("score"), int | float):
            why += f" (score {one['score']:.2f})"
        table.add_row(what, f"{_count(one.get('tokens')):,}", why)
    return [Text("left out", style="bold"), table]


def _stretch(one: Ledger) -> str:
    count = one.get("count")
    return _messages(_count(count)) if count is not None else one_line(str(one.get("source") or "?"), 40)


def _messages(count: int) -> str:
    return f"{count:,} message" + ("" if count == 1 else "s")


def _count(value: Any) -> int:
    """A number of a ledger, which may be an old or an imported one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else "?"
