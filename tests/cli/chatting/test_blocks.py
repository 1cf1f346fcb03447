"""An answer cut into blocks: nothing is lost, and what was given out stays true."""

from random import Random

import pytest

from proxy.cli.chatting.blocks import Block, Blocks
from tests.cli.chatting.documents import answer, pieces


def fed(source: str, *parts: str) -> tuple[list[str], str | None]:
    blocks = Blocks()
    closed = [block.source for part in parts or (source,) for block in blocks.add("text", part)]
    return closed, blocks.open.source if blocks.open else None


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_pieces_the_blocks_are_the_same_and_all_is_there(seed: int) -> None:
    random = Random(seed)
    source = answer(random)
    one, other = Blocks(), Blocks()
    whole = [*one.add("text", source), *one.end()]
    parts = [block for piece in pieces(random, source) for block in other.add("text", piece)] + other.end()
    assert [block.source.strip() for block in parts] == [block.source.strip() for block in whole]
    assert "".join(block.source for block in whole).split() == source.split()


CLOSED = [
    ("a paragraph goes on until a blank line", ("one\n", "two", "\n"), [], "one\ntwo\n"),
    ("what follows a blank line closes it", ("one\n\n", "t"), ["one\n\n"], "t"),
    ("a list goes on with the next item", ("- a\n\n", "-", " b"), [], "- a\n\n- b"),
    ("a line that may become an item is waited for", ("- a\n\n", "1"), [], "- a\n\n1"),
    ("a word ends a list", ("- a\n\n", "then"), ["- a\n\n"], "then"),
    ("a heading closes a paragraph once its line is whole", ("one\n", "# H", "\n"), ["one\n"], "# H\n"),
    ("a # alone may become a word", ("one\n", "#"), [], "one\n#"),
    ("a fence is open until its end", ("```\na\n\n# b\n",), [], "```\na\n\n# b\n"),
    ("a table's head is a paragraph at first", ("| a |\n", "|---|\n", "| 1 |\n"), [], "| a |\n|---|\n| 1 |\n"),
    ("a definition of a link is text", ("[a]: http://b\n\n", "x"), ["[a]: http://b\n\n"], "x"),
    ("HTML is text", ("<think>\nhm\n</think>\n\n", "x"), ["<think>\nhm\n</think>\n\n"], "x"),
    ("blank lines at the head say nothing", ("\n", " \n\n", "x"), [], "x"),
]


@pytest.mark.parametrize(("parts", "closed", "rest"), [row[1:] for row in CLOSED], ids=[row[0] for row in CLOSED])
def test_blocks_are_closed_when_nothing_can_change_them(parts: tuple[str, ...], closed: list[str], rest: str) -> None:
    assert fed("", *parts) == (closed, rest)


def test_reasoning_is_given_out_line_by_line_and_parted_from_the_text() -> None:
    blocks = Blocks()
    assert blocks.add("reasoning", "# a\nb") == [Block("reasoning", "# a\n")]
    assert blocks.open == Block("reasoning", "b", joined=True)
    assert blocks.add("text", "c") == [Block("reasoning", "b", joined=True)]
    assert blocks.end() == [Block("text", "c")]
    assert blocks.end() == []


def rows(source: str) -> list[str]:
    """Ten letters a row, cut anywhere: what a renderer does."""
    words, made = source.split(), [""]
    for word in words:
        joined = f"{made[-1]} {word}".strip()
        made[-1:] = [joined] if len(joined) <= 10 else [made[-1], word]
    return made


def test_a_paragraph_gives_away_whole_rows() -> None:
    blocks = Blocks()
    source = " ".join(["abc"] * 40)
    blocks.add("text", source)
    (head,) = blocks.shorten(rows)
    assert blocks.open is not None
    assert (head.joined, blocks.open.joined) == (False, True)
    assert rows(head.source) + rows(blocks.open.source) == rows(source)
    assert len(rows(blocks.open.source)) == 3


def test_a_paragraph_whose_parts_would_look_otherwise_stays_whole_for_a_while() -> None:
    asked = []

    def never(source: str) -> list[str]:
        asked.append(source)
        return [*rows(source), str(len(source))]

    blocks = Blocks()
    blocks.add("text", " ".join(["abc"] * 40))
    assert blocks.shorten(never) == []
    tried = len(asked)
    blocks.add("text", " and more")
    assert (blocks.shorten(never), len(asked)) == ([], tried), "it is not tried again at each word"


def test_a_list_gives_away_all_items_but_the_last() -> None:
    blocks = Blocks()
    blocks.add("text", "8. a\n9. b\n   - c\n10. d\n    e")
    assert blocks.shorten(rows) == [Block("text", "8. a\n9. b\n   - c\n")]
    assert blocks.open == Block("text", "10. d\n    e", joined=True)
    assert blocks.shorten(rows) == []


def test_a_fence_gives_away_its_lines_and_remembers_what_they_opened() -> None:
    blocks = Blocks()
    code = "".join(f"l{at}\n" for at in range(1, 11))
    blocks.add("text", f"```py\n{code}")
    assert blocks.shorten(rows) == [Block("text", f"```py\n{code}", lines=(1, 7))]
    assert blocks.open == Block("text", f"```py\n{code}", joined=True, lines=(8, None))
    assert blocks.shorten(rows) == []
    more = "".join(f"m{at}\n" for at in range(1, 201))
    blocks.add("text", more)
    assert [block.lines for block in blocks.shorten(rows)] == [(8, 207)]
    assert blocks.open is not None
    assert blocks.open.lines == (101, None)
    assert blocks.open.source.count("\n") == 1 + 100 + 3, "what was given away long ago is forgotten"


def test_a_table_stays_whole() -> None:
    blocks = Blocks()
    blocks.add("text", "| a |\n|---|\n" + "| 1 |\n" * 30)
    assert blocks.shorten(rows) == []
