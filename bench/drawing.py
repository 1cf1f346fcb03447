"""Ledgers -> an SVG: tokens per segment and turn as stacked areas, the budget as a line. Readable in light and dark."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 960, 440
LEFT, TOP, RIGHT, BOTTOM = 64, 72, 20, 84
COLOURS = {
    "system": "#7d8590",
    "tools": "#a5754a",
    "summary": "#bf5fa8",
    "history": "#3f7fd1",
    "recall": "#e09b1a",
    "new": "#2f9e63",
}
CALLED = {"recall": "recalled text"}
"""What the legend says, where that is not the name."""
RECALLS = ("recall_history", "recall_doc")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.back{fill:#fff}.mark{fill:#1f2328}.grid{stroke:#d0d7de}"
    ".line{stroke:#1f2328;stroke-width:1.5;stroke-dasharray:6 4}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.back{fill:#0d1117}.mark{fill:#e6edf3}.grid{stroke:#30363d}"
    ".line{stroke:#e6edf3}}"
)
Ledger = dict[str, Any]


def svg(ledgers: Sequence[Ledger], budget: int) -> str:
    """The whole picture; the same for the same ledgers."""
    wide = (WIDTH - LEFT - RIGHT) / len(ledgers)

    def x(turn: float) -> float:
        return LEFT + turn * wide

    def y(tokens: float) -> float:
        return HEIGHT - BOTTOM - tokens * (HEIGHT - TOP - BOTTOM) / (budget * 1.05)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d">',
        f'<title id="t">Tokens per segment in each of {len(ledgers)} turns of one session</title>',
        f'<desc id="d">{_described(ledgers, budget)}</desc><style>{STYLE}</style>',
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        *_axes(ledgers, budget, x, y),
        *_areas(ledgers, x, y),
        f'<path class="line" d="M{LEFT} {y(budget):.1f}H{WIDTH - RIGHT}"/>',
        f'<text x="{LEFT + 6}" y="{y(budget) - 6:.1f}">budget: {budget:,} tokens</text>',
        *_marks(ledgers, x),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def kept(ledger: Ledger, source: str) -> int:
    """The tokens of a kind of segment in what was sent."""
    sources = RECALLS if source == "recall" else (source,)
    return sum(one["tokens"] for one in ledger["segments"] if one["kept"] and one["source"] in sources)


def dropped(ledger: Ledger, reason: str) -> int:
    """How many messages were left out, or cleared."""
    return sum(one.get("count", 0) for one in ledger["segments"] if not one["kept"] and one["reason"] == reason)


def events(ledgers: Sequence[Ledger], reason: str) -> list[int]:
    """The turns at which more messages are left out, or cleared, than at the one before."""
    counts = [0, *(dropped(ledger, reason) for ledger in ledgers)]
    return [n for n, (before, after) in enumerate(pairwise(counts)) if after > before]


def _described(ledgers: Sequence[Ledger], budget: int) -> str:
    most = max(ledger["total"] for ledger in ledgers)
    leaves = len(events(ledgers, "over budget"))
    return (
        "Stacked areas: system, tools, summary, history, recalled text, new messages. History grows until the budget "
        f"of {budget:,} tokens is reached, then shrinks at once, {leaves} times; the largest request has {most:,}."
    )


Place = Callable[[float], float]


def _axes(ledgers: Sequence[Ledger], budget: int, x: Place, y: Place) -> list[str]:
    out = []
    for tokens in range(0, budget + 1, 1000):
        out.append(f'<path class="grid" d="M{LEFT} {y(tokens):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(tokens) + 4:.1f}" text-anchor="end">{tokens:,}</text>')
    for turn in (1, *range(20, len(ledgers) + 1, 20)):
        out.append(f'<text x="{x(turn - 0.5):.1f}" y="{HEIGHT - BOTTOM + 42}" text-anchor="middle">{turn}</text>')
    out.append(f'<text x="{LEFT - 8}" y="{TOP - 8}" text-anchor="end">tokens</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 18}" text-anchor="middle">turn</text>')
    return out


def _areas(ledgers: Sequence[Ledger], x: Place, y: Place) -> list[str]:
    """Each kind as steps on top of those before it."""
    floor = [0] * len(ledgers)
    out = []
    for source, colour in COLOURS.items():
        top = [below + kept(ledger, source) for below, ledger in zip(floor, ledgers, strict=True)]
        if top != floor:
            there = _steps(top, range(len(top)), x, y)
            back = _steps(floor, range(len(floor) - 1, -1, -1), x, y)
            out.append(f'<path fill="{colour}" d="M{there}L{back}Z"/>')
        floor = top
    return out


def _steps(values: Sequence[int], order: Sequence[int], x: Place, y: Place) -> str:
    """The outline of bars, from the first of `order` to the last; equal neighbours are one."""
    forward = order[0] <= order[-1]
    out = ""
    last: int | None = None
    for n in order:
        begin, end = (n, n + 1) if forward else (n + 1, n)
        if last is None:
            out += f"{x(begin):.1f} {y(values[n]):.1f}"
        elif values[n] != last:
            out += f"H{x(begin):.1f}V{y(values[n]):.1f}"
        last = values[n]
        if n == order[-1]:
            out += f"H{x(end):.1f}"
    return out


def _marks(ledgers: Sequence[Ledger], x: Place) -> list[str]:
    """Under the turns: where old turns left, and where results were cleared."""
    at = HEIGHT - BOTTOM + 6
    left = "".join(f"M{x(n + 0.5):.1f} {at}l5 9h-10z" for n in events(ledgers, "over budget"))
    cleared = "".join(
        f"M{x(n + 0.5):.1f} {at + 12}l4.5 4.5-4.5 4.5-4.5-4.5z" for n in events(ledgers, "tool results cleared")
    )
    return [f'<path class="mark" d="{left}"/>', f'<path fill="{COLOURS["tools"]}" d="{cleared}"/>']


def _legend() -> list[str]:
    out = []
    at = LEFT
    for source, colour in COLOURS.items():
        out.append(f'<rect x="{at}" y="20" width="14" height="14" rx="3" fill="{colour}"/>')
        name = CALLED.get(source, source)
        out.append(f'<text x="{at + 20}" y="32">{name}</text>')
        at += 46 + 7 * len(name)
    out.append(f'<path class="mark" d="M{at + 6} 22l5 9h-10z"/><text x="{at + 18}" y="32">old turns leave</text>')
    at += 130
    out.append(f'<path fill="{COLOURS["tools"]}" d="M{at + 6} 22l4.5 4.5-4.5 4.5-4.5-4.5z"/>')
    out.append(f'<text x="{at + 18}" y="32">old tool results cleared</text>')
    return out
