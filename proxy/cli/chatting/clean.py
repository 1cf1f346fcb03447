"""Text of others -> text that a terminal may print: models, names and error messages give no orders to it. Pure."""

_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)]
_REORDERING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Marks that show a text in another order than it has."""
_PRINTABLE: dict[int, str | None] = {
    **dict.fromkeys([*_CONTROLS, *_REORDERING]),
    **dict.fromkeys((0x2028, 0x2029), "\n"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),  # a lone surrogate can be neither printed nor sent
}


def clean(text: str) -> str:
    """The text without control characters, tabs and line ends excepted."""
    return text.translate(_PRINTABLE)


def one_line(text: str, most: int = 400) -> str:
    """The text as part of a line, cut where it is too long for one."""
    words = " ".join(clean(text).split())
    return words if len(words) <= most else words[: most - 3].rstrip() + "..."
