"""What the chat paints: everything once, in its order, whatever the pieces and the size of the terminal."""

import io
import re
from random import Random
from typing import Any, cast

import pytest
from rich.console import Console
from rich.text import Text

from proxy.cli.chatting.screen import Painted, Screen, lines
from tests.cli.chatting.documents import answer, pieces
from tests.cli.chatting.paper import Paper

WORD = re.compile(r"w\d+")


def console(paper: Paper) -> Console:
    made = Console(file=cast("Any", paper), force_terminal=True, color_system="256", highlight=False)
    made.size = (paper.width, paper.height)
    return made


def painted(paper: Paper, parts: list[str], random: Random | None = None) -> str:
    """The screen after an answer; with `random` the terminal changes its width meanwhile."""
    on = console(paper)
    place = Painted(on)
    for part in parts:
        if random is not None and random.random() < 0.05:
            paper.resize(random.randint(40, 80), paper.height)
            on.size = (paper.width, paper.height)
        place.add([("text", part)])
    place.end()
    return paper.text()


@pytest.mark.parametrize("seed", range(25))
def test_every_word_is_there_once_and_in_order(seed: int) -> None:
    random = Random(seed)
    source = answer(random)
    paper = Paper(random.randint(25, 120), random.randint(5, 50))
    assert WORD.findall(painted(paper, pieces(random, source))) == WORD.findall(source)


@pytest.mark.parametrize("seed", range(15))
def test_a_terminal_that_changes_its_width_shows_nothing_twice(seed: int) -> None:
    random = Random(seed)
    source = answer(random, tall=False)
    shown = painted(Paper(80, 24), pieces(random, source), random)
    assert WORD.findall(shown) == WORD.findall(source)


@pytest.mark.parametrize("seed", range(20))
def test_code_looks_the_same_in_pieces_as_whole(seed: int) -> None:
    random = Random(seed)
    code = "".join(f"{' ' * (at % 3)}line {at}\n" for at in range(random.randint(1, 300)))
    source = f"```\n{code}```\n"
    shown = painted(Paper(60, random.randint(6, 30)), pieces(random, source))
    assert shown == "\n".join(f"  {line}" for line in code.splitlines())


def test_a_long_paragraph_scrolls_away_while_it_is_written() -> None:
    paper = Paper(40, 24)
    place = Painted(console(paper))
    words = [f"w{at}" for at in range(2000)]
    for word in words:
        place.add([("text", word + " ")])
    assert len(paper.rows) > 150, "its head has scrolled away"
    assert sum(place._painter._painted) < 40 * 12, "what is painted again stays small"
    place.end()
    assert paper.text().split() == words


def test_blocks_are_parted_by_one_blank_line() -> None:
    source = "\n\n\n# Tea\nis *good*\nfor you\n\n\n\n- a\n- b\n\n```\ncode\n\n\nmore\n```\nend"
    assert painted(Paper(40, 24), [source]) == "Tea\n\nis good\nfor you\n\n • a\n • b\n\n  code\n\n\n  more\n\nend"


def test_reasoning_stands_above_and_is_dimmed() -> None:
    paper = Paper(40, 24)
    written = io.StringIO()
    for out in (paper, written):
        on = Console(file=cast("Any", out), force_terminal=True, width=40, height=24, color_system="256")
        place = Painted(on)
        place.add([("reasoning", "Let me ")])
        place.add([("reasoning", "see.\nSo *be* it."), ("text", "It ")])
        place.add([("text", "is **42**.")])
        place.end()
    assert paper.text() == "Let me see.\nSo *be* it.\n\nIt is 42."
    assert "\x1b[2mSo *be* it.\x1b[0m" in written.getvalue()


def test_an_answer_without_a_word_leaves_nothing() -> None:
    assert painted(Paper(40, 24), []) == ""
    assert painted(Paper(40, 24), ["\n", "  \n"]) == ""


def test_a_pipe_gets_the_text_as_it_came_and_its_end() -> None:
    out, notes = io.StringIO(), io.StringIO()
    screen = Screen(live=False, out=out, notes=notes)
    place = screen.answer()
    place.add([("reasoning", "hm"), ("text", "**a** [b]b[/b]\n")])
    place.add([("text", "c")])
    place.end()
    screen.gap()
    screen.note("n" * 200)
    screen.problem("[red]p")
    screen.show(Text("told   "), Text("more"))
    assert out.getvalue() == "**a** [b]b[/b]\nc\ntold\nmore\n"
    assert notes.getvalue() == "n" * 200 + "\nerror: [red]p\n"


def test_rows_have_no_spaces_at_their_ends() -> None:
    rows = lines(Console(file=io.StringIO(), width=30, color_system=None), Text("\n a  \n\n b \n\n"))
    assert rows == [(" a", 2), ("", 0), (" b", 2)]


def test_no_color_takes_the_colours_and_keeps_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    screen = Screen(live=True, out=cast("Any", out))
    place = screen.answer()
    place.add([("text", "```python\nprint(1)\n```\n")])
    place.end()
    assert "print(1)" in re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", out.getvalue())
    assert not re.search(r"\x1b\[[0-9;]*3\dm", out.getvalue())
