"""Blocks of an answer -> what rich renders. The terminal's own colours; nothing of the source is left out."""

from collections.abc import Sequence
from math import inf
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import markdown
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.syntax import Syntax
from rich.text import Text

from proxy.cli.chatting.blocks import NESTING, Block, parser
from proxy.cli.chatting.clean import clean

THEME = "ansi_dark"
"""Made of the terminal's sixteen colours, so that it suits whatever they are."""

COLUMNS = {"bullet_list": 3, "ordered_list": 4, "blockquote": 4}
"""What one of them takes from what stands in it."""
ROOM = 8
"""Columns that are left for words at the least."""


class Heading(markdown.Heading):
    """To the left and without a frame, whatever its level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class Code(markdown.CodeBlock):
    """Indented by two, on the terminal's own background."""

    lines: tuple[int, int | None] = (1, None)

    @classmethod
    def create(cls, markdown: markdown.Markdown, token: Token) -> "Code":
        """Of a block of which a part was shown before, the lines that follow."""
        code = cls(token.info.partition(" ")[0] or "text", THEME)
        code.lines = markdown.lines if isinstance(markdown, Markdown) and token.level == 0 else code.lines
        return code

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip("\n")
        yield Syntax(
            code,
            self.lexer_name,
            theme=THEME,
            background_color="default",
            word_wrap=True,
            padding=(0, 0, 0, 2),
            line_range=self.lines,
        )


class Markdown(markdown.Markdown):
    """rich's, with single line ends kept, addresses of links shown and no HTML that vanishes."""

    elements: ClassVar = {
        **markdown.Markdown.elements,
        "heading_open": Heading,
        "fence": Code,
        "code_block": Code,
    }

    justify = None
    style = "none"
    hyperlinks = False
    code_theme = inline_code_theme = THEME
    inline_code_lexer = None

    def __init__(self, source: str, parser: MarkdownIt, lines: tuple[int, int | None] = (1, None)) -> None:
        """Not rich's own, which makes a parser each time: that takes longer than all the rest."""
        self.markup = source
        self.lines = lines
        self.parsed = parser.parse(source)
        for token in self.parsed:
            token.children = [_plain(child) for child in token.children] if token.children else token.children

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lists and quotes that leave no room for words, or are too deep for the parser, stand as they were written."""
        if _indented(self.parsed) > options.max_width - ROOM:
            yield Text(self.markup)
        else:
            yield from super().__rich_console__(console, options)


def _indented(tokens: Sequence[Token]) -> float:
    """The columns that nested lists and quotes take at their deepest place."""
    deepest = now = 0
    for token in tokens:
        if token.nesting > 0 and token.level >= NESTING - 1:
            return inf
        now += token.nesting * COLUMNS.get(token.type.removesuffix("_open").removesuffix("_close"), 0)
        deepest = max(deepest, now)
    return deepest


def _plain(token: Token) -> Token:
    """Line ends as they are, an image as its description and address, and no orders to the terminal: the parser has put
    characters in the place of entities by now."""
    if token.type == "softbreak":
        return Token("hardbreak", "br", 0)
    if token.type == "image":
        return Token("text", "", 0, content=clean(f"[image: {token.content}] ({token.attrs.get('src', '')})"))
    token.content = clean(token.content)
    return token


class Renderer:
    """Makes blocks visible, with one parser for all of them."""

    def __init__(self) -> None:
        self._parser = parser()

    def __call__(self, block: Block) -> RenderableType:
        """A block as rich shows it."""
        if block.kind == "reasoning":
            return Text(block.source.rstrip("\n"), style="dim")
        return Markdown(block.source, self._parser, block.lines)
