"""What is typed, and what is remembered of it."""

import stat
from pathlib import Path

import pytest

from proxy.cli.chatting.prompt import REMEMBERED, History, history_file, joined, piped


def test_a_backslash_goes_on_in_the_next_line() -> None:
    lines = iter(["a\\", "b\\", "c", "d"])
    assert joined(lines) == ["a", "b", "c"]
    assert joined(lines) == ["d"]
    assert joined(lines) == []
    assert joined(iter(["a\\"])) == ["a"]


def test_a_pipe_brings_messages_line_by_line_without_empty_ones() -> None:
    assert list(piped(iter(["one\n", "\n", "  \n", "two\\\n", "three\x1b\n", "four"]))) == ["one", "two\nthree", "four"]


def test_inputs_are_kept_for_the_next_chat_and_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "state" / "chat.jsonl"
    first = History(path)
    assert first.read() == []
    for text in ("one", "two\nlines é", "two\nlines é", "one"):
        first.add(text)
    assert History(path).read() == ["one", "two\nlines é", "one"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_has_grown_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(f'"{at}"\n' for at in range(2 * REMEMBERED + 1)) + "torn")
    assert History(path).read() == [str(at) for at in range(REMEMBERED + 1, 2 * REMEMBERED + 1)]
    assert path.read_text().count("\n") == REMEMBERED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(b'"good"\n\xff\n{}\n""\n"too"\n')
    assert History(path).read() == ["good", "too"]


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (None, tmp_path / "file" / "chat.jsonl"):
        history = History(path)
        history.add("x")
        assert history.read() == []


def test_it_stands_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "session-proxy" / "chat_history.jsonl"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert history_file() == tmp_path / "home" / ".local" / "state" / "session-proxy" / "chat_history.jsonl"
