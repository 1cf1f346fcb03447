"""What Markdown looks like: nothing of it vanishes, nothing of it gives orders."""

import io
import re
from random import Random

import pytest
from rich.console import Console

from proxy.cli.chatting.blocks import Block
from proxy.cli.chatting.markdown import Renderer
from proxy.cli.chatting.screen import lines


def looks(source: str, width: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width + 1, color_system=None)
    return "\n".join(text for text, _ in lines(console, Renderer()(Block("text", source))))


SHOWN = [
    ("# Tea\n", "Tea"),
    ("a line\nand the next", "a line\nand the next"),
    ("**b** *i* `c` ~~s~~", "b i c s"),
    ("[words](https://a.example/x?y=1)", "words (https://a.example/x?y=1)"),
    ("![a cat](https://a.example/cat.png) sat", "[image: a cat]\n(https://a.example/cat.png) sat"),
    ("<b>html</b> &amp; <!-- more -->", "<b>html</b> & <!-- more -->"),
    ("<div>\nblock\n</div>", "<div>\nblock\n</div>"),
    ("[a]: https://b.example", "[a]: https://b.example"),
    ("[bold red]no markup[/bold red] :smile:", "[bold red]no markup[/bold red] :smile:"),
    ("1. one\n2. two", " 1 one\n 2 two"),
    ("7. seven", " 7 seven"),
    ("```\na  b\n\n  c\n```", "  a  b\n\n    c"),
    ("    indented", "  indented"),
    ("> said", "▌ said"),
]


@pytest.mark.parametrize(("source", "shown"), SHOWN, ids=[source[:20] for source, _ in SHOWN])
def test_each_thing_looks_plain(source: str, shown: str) -> None:
    assert looks(source) == shown


def test_a_table_has_columns() -> None:
    head, _, row = looks("| a | bb |\n|---|--:|\n| 1 | 2 |").split("\n")
    assert (head.split(), row.split()) == (["a", "bb"], ["1", "2"])
    assert (len(head), head.index("a")) == (len(row), row.index("1")), "numbers to the right"


@pytest.mark.parametrize("seed", range(150))
def test_whatever_a_model_writes_is_rendered(seed: int) -> None:
    random = Random(seed)
    tokens = ["w", "*", "**", "_", "`", "```", "~~~", "\n", "\n\n", "> ", "- ", "1. ", "# ", "| ", "|---|", "[", "](",
              ")", "![", "<b>", "&amp;", "    ", "\t", "\\", "---", "~~", ":", "http://x.y ", "é", "😀"]  # fmt: skip
    source = "".join(random.choice(tokens) for _ in range(random.randint(1, 200)))
    shown = looks(source, random.choice((20, 40, 80)))
    assert shown.count("w") >= source.count("w") - source.count("``"), "no word is lost but as the name of a language"


DEEP = ["> " * 500 + "deep", "- " * 500 + "deep", "[" * 2000 + "deep", "**" * 2000 + "deep", "> " * 6 + "deep",
        "\n".join("  " * level + f"- {level}" for level in range(15)) + " deep"]  # fmt: skip


@pytest.mark.parametrize("source", DEEP, ids=[source[:6] for source in DEEP])
def test_what_is_nested_too_deep_is_shown_as_it_is_written(source: str) -> None:
    assert looks(source, 20).replace("\n", "").endswith("deep")


def test_lists_in_lists_are_lists() -> None:
    source = "\n".join("  " * level + f"- {level}" for level in range(6))
    assert looks(source) == "\n".join(" " * (1 + 3 * level) + f"• {level}" for level in range(6))


def test_the_lines_of_a_fence_that_were_shown_are_not_shown_again() -> None:
    console = Console(file=io.StringIO(), width=30, force_terminal=True, color_system="256")
    block = Block("text", '```python\n"""one\ntwo\nthree"""\nfour\n```\n', lines=(3, 4))
    shown = [text for text, _ in lines(console, Renderer()(block))]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in shown] == ['  three"""', "  four"]
    assert shown[0] != shown[1].replace("four", 'three"""'), "the end of a text is coloured as a text"


def test_entities_give_no_orders_either() -> None:
    assert looks("a&#x202e;b &#8294;c &#27;d `&#x202e;`") in ("ab c \ufffdd &#x202e;", "ab c d &#x202e;")
