"""The picture of a session's ledgers: what it draws is what they say."""

import re
from typing import Any
from xml.etree import ElementTree

from bench import drawing

SVG = "{http://www.w3.org/2000/svg}"


def ledger(left: int, **tokens: int) -> dict[str, Any]:
    kept = [{"source": source, "tokens": count, "kept": True, "reason": ""} for source, count in tokens.items()]
    gone = [{"source": "history", "count": left, "tokens": 9, "kept": False, "reason": "over budget"}] if left else []
    return {"total": sum(tokens.values()), "segments": [*kept, *gone]}


LEDGERS = [
    ledger(0, system=100, new=50),
    ledger(0, system=100, history=300, new=50),
    ledger(4, system=100, history=200, recall_doc=30, recall_history=20, new=50),
    ledger(4, system=100, history=250, new=50),
]


def test_the_picture_is_small_well_formed_and_always_the_same() -> None:
    many = LEDGERS * 60
    made = drawing.svg(many, 500)
    assert made == drawing.svg(many, 500)
    assert len(made) < 60_000
    assert "<script" not in made
    assert ElementTree.fromstring(made).tag == f"{SVG}svg"


def test_kinds_that_were_sent_are_drawn_and_others_are_not() -> None:
    tree = ElementTree.fromstring(drawing.svg(LEDGERS, 500))
    areas = [path.get("fill") for path in tree.findall(f"{SVG}path") if (path.get("d") or "").endswith("Z")]
    assert areas == [drawing.COLOURS[source] for source in ("system", "history", "recall", "new")]
    names = [drawing.CALLED.get(source, source) for source in drawing.COLOURS]
    assert [text.text for text in tree.findall(f"{SVG}text") if text.text in names] == names


def test_the_outline_of_an_area_ends_at_the_heights_of_its_turns() -> None:
    tree = ElementTree.fromstring(drawing.svg(LEDGERS, 500))
    system = next(path for path in tree.findall(f"{SVG}path") if path.get("fill") == drawing.COLOURS["system"])
    there, _, back = (system.get("d") or "").partition("L")
    heights = {float(value) for value in re.findall(r"(?:V|M\S+ )([\d.]+)", there)}
    assert len(heights) == 1, "the system message is as long in all turns"
    assert float(back.split()[1].split("H")[0]) > heights.pop()


def test_the_turns_at_which_messages_leave_are_marked() -> None:
    assert drawing.events(LEDGERS, "over budget") == [2]
    assert drawing.events(LEDGERS, "tool results cleared") == []
    assert drawing.kept(LEDGERS[2], "recall") == 50
