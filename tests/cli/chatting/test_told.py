"""What commands tell."""

import io
from collections.abc import Sequence

from rich.console import Console, RenderableType

from proxy.cli.chatting import told
from proxy.cli.chatting.record import Entry, read
from proxy.cli.chatting.screen import lines
from tests.cli.chatting.test_record import LINES


def looks(parts: Sequence[RenderableType], width: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width + 1, color_system=None)
    return "\n".join(text for part in parts for text, _ in lines(console, part) or [("", 0)])


def test_history_shows_who_said_what_in_which_turn() -> None:
    calls = [{"id": "c", "function": {"name": "clock", "arguments": "{}"}}]
    entries = [
        Entry(1, 1, "complete", "m\x1b", {"role": "user", "content": "*time*?\x1b[2J"}),
        Entry(1, 2, "complete", "m\x1b", {"role": "assistant", "content": None, "tool_calls": calls}),
        Entry(2, 3, "complete", "m", {"role": "tool", "content": "noon\n" * 200}),
        Entry(2, 4, "incomplete", "m", {"role": "assistant", "content": "It is **noon**"}),
        Entry(3, 5, "complete", "", {"role": "assistant", "content": "imported"}),
    ]
    shown = looks(told.history(entries), 1000).split("\n")
    assert shown[:6] == ["turn 1, you", "*time*?[2J", "", "turn 1, m", "calls clock({})", ""]
    assert shown[6] == "turn 2, tool"
    assert (len(shown[7]), shown[7][-4:]) == (400, "o...")
    assert shown[9:] == ["turn 2, m, stopped", "It is noon", "", "turn 3, assistant", "imported"]


LISTED = [
    {"id": 1, "parent": None, "forked_at": None, "turns": 2, "current": False},
    {"id": 2, "parent": 1, "forked_at": 1, "turns": 1, "current": False},
    {"id": 3, "parent": 2, "forked_at": 0, "turns": 1, "current": True},
]


def test_branches_show_where_they_begin_and_what_was_asked_last() -> None:
    assert looks(told.branches(LISTED, read(LINES), None)) == (
        "     begins        turns  last asked\n"
        "  1  at the start      2  c\n"
        "  2  1, turn 1         1  e\n"
        "* 3  2, turn 0         1  g"
    )
    assert "* 2  1, turn 1" in looks(told.branches(LISTED, read(LINES), 2))


def test_the_last_question_of_a_branch_is_cut_where_the_terminal_ends() -> None:
    record = read(LINES)
    record.entries[3][0] = Entry(4, 2, "complete", "m", {"role": "user", "content": "a long question " * 9})
    assert max(map(len, looks(told.branches(LISTED, record, None), 40).split("\n"))) <= 40


def test_models_and_sessions_mark_the_present_one() -> None:
    assert looks(told.models(["a", "b"], "b")) == "  a\n* b"
    assert looks(told.models(["a"], "mine")) == "* mine\n  a"
    listed = [
        {"id": "u1", "name": "ada", "updated_at": "2026-01-02T03:04:05Z"},
        {"id": "u2", "name": None, "created_at": "2026-01-01T00:00:00Z"},
    ]
    assert looks(told.sessions(listed, "u2")) == "  ada  2026-01-02 03:04\n* u2   2026-01-01 00:00"


def test_the_line_after_an_answer() -> None:
    headers = {
        "x-session-turn": "3",
        "x-session-branch": "1",
        "x-context-tokens": "total=1204;estimate=1300;new=4;budget=4000",
        "x-context-recalled": "2",
        "x-context-dropped": "0",
        "x-upstream": "local\x1b",
    }
    assert told.status(headers) == "turn 3 | branch 1 | 1,300 of 4,000 tokens | 2 recalled | by local"
    assert told.status({"x-context-tokens": "total=7;budget=none", "x-context-dropped": "1"}) == "7 tokens | 1 left out"
    assert told.status({}) == ""
