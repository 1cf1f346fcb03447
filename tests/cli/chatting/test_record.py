"""An export read as a conversation with branches."""

import json
from typing import Any

from proxy.cli.chatting.record import asked, newest, read, text_of


def turn(number: int, branch: int, first: int, *texts: str, status: str = "complete") -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"type": "turn", "number": number, "branch": branch, "model": "m"}]
    for at, text in enumerate(texts):
        message = {"role": ("user", "assistant")[at % 2], "content": text}
        lines.append({"type": "entry", "turn": number, "seq": first + at, "status": status, "message": message})
    return lines


def branch(number: int, parent: int | None, forked_at: int) -> dict[str, Any]:
    return {"type": "branch", "number": number, "parent": parent, "forked_at": forked_at}


LINES = [
    {"type": "session", "branch": 3, "turns": 4},
    {"type": "agent", "fields": {}},
    branch(1, None, 0),
    branch(2, 1, 2),
    branch(3, 2, 1),
    *turn(1, 1, 1, "a", "b"),
    *turn(2, 1, 3, "c", "d"),
    *turn(3, 2, 3, "e", "f", status="incomplete"),
    *turn(4, 3, 2, "g", "h"),
    {"type": "end", "uuid": "x"},
]


def test_a_branch_shares_what_stands_before_it() -> None:
    record = read(LINES)
    said = {number: "".join(text_of(one.message) for one in record.line(number)) for number in (1, 2, 3)}
    assert said == {1: "abcd", 2: "abef", 3: "agh"}
    assert (record.current, record.turns) == (3, 4)
    assert [one.status for one in record.line(2)] == ["complete"] * 2 + ["incomplete"] * 2


def test_the_newest_turns_and_the_last_question() -> None:
    line = read(LINES).line(1)
    assert [one.turn for one in newest(line, 1)] == [2, 2]
    assert newest(line, 0) == newest(line, 9) == line
    assert (asked(line), asked([])) == ("c", "")


def test_a_message_that_stands_as_a_text_is_read() -> None:
    lines = turn(1, 1, 1, "a")
    lines[1]["message"] = json.dumps({"role": "user", "content": "a\nb"}, indent=1)
    assert text_of(read(lines).line(1)[0].message) == "a\nb"


def test_parts_other_than_text_are_named() -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:"}}, "odd"]
    assert text_of({"content": parts}) == "look\n[image_url]"
    assert text_of({"content": None}) == ""


def test_branches_in_a_circle_end() -> None:
    assert read([branch(1, 2, 1), branch(2, 1, 1), *turn(1, 1, 1, "a")]).line(1)
