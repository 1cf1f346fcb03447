"""Random answers as models write them, every word of which is there once."""

from collections.abc import Iterator
from itertools import count
from random import Random


def answer(random: Random, tall: bool = True) -> str:
    """Markdown. `tall`: also tables and quotes, which are painted whole."""
    words = (f"w{number}" for number in count())
    makers = [_paragraph, _heading, _list, _numbered, _fence, *((_table, _quote) if tall else ())]
    return "\n\n".join(random.choice(makers)(random, words) for _ in range(random.randint(1, 6))) + "\n"


def pieces(random: Random, text: str) -> list[str]:
    """The text as a stream may bring it."""
    found = []
    while text:
        at = random.choice((1, 2, 5, 20, 200))
        found.append(text[:at])
        text = text[at:]
    return found


def _line(random: Random, words: Iterator[str], most: int) -> str:
    said = [next(words) for _ in range(random.randint(1, most))]
    if len(said) > 2 and random.random() < 0.5:
        mark = random.choice(("**", "*", "`", "~~", "_"))
        said[0], said[1] = mark + said[0], said[1] + mark
    return " ".join(said)


def _paragraph(random: Random, words: Iterator[str]) -> str:
    return "\n".join(_line(random, words, random.choice((5, 20, 150))) for _ in range(random.randint(1, 3)))


def _heading(random: Random, words: Iterator[str]) -> str:
    return "#" * random.randint(1, 4) + " " + _line(random, words, 5)


def _list(random: Random, words: Iterator[str]) -> str:
    nested = random.random() < 0.3
    return "\n".join(
        ("  " if nested and at % 2 else "") + "- " + _line(random, words, 25) for at in range(random.randint(1, 20))
    )


def _numbered(random: Random, words: Iterator[str]) -> str:
    return "\n".join(f"{at}. {_line(random, words, 25)}" for at in range(1, random.randint(2, 25)))


def _fence(random: Random, words: Iterator[str]) -> str:
    lines = [" " * random.choice((0, 4)) + f'"{next(words)}"  # {next(words)}' for _ in range(random.randint(1, 60))]
    return "\n".join(["```" + random.choice(("", "python", "nonsense")), *lines, "```"])


def _table(random: Random, words: Iterator[str]) -> str:
    rows = [f"| {next(words)} | {next(words)} |" for _ in range(random.randint(2, 20))]
    return "\n".join([rows[0], "|---|--:|", *rows[1:]])


def _quote(random: Random, words: Iterator[str]) -> str:
    return "\n".join("> " + _line(random, words, 25) for _ in range(random.randint(1, 10)))
