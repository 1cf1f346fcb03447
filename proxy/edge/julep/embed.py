"""Vectors of texts."""

import asyncio
from collections.abc import Sequence

import msgspec

from proxy.edge.julep import file_shapes as shapes
from proxy.edge.operation import Ask
from proxy.edge.tenants import admitted
from proxy.errors import BadRequest, TooLarge

LONGEST = 100_000
"""Characters of a text with its instruction."""
MOST = 1_000_000
"""Characters of all of them."""
FEW = 20_000
"""Numbers that are written in the event loop."""


async def embed(ask: Ask) -> bytes:
    """Make vectors of texts: exactly one for each, in their order. An instruction stands before each text."""
    given: shapes.Embed = ask.given
    texts = worded([given.text] if isinstance(given.text, str) else given.text, given.embed_instruction)
    if ask.svc.embedder.describe().kind == "local":  # in `passthrough` mode any text is a key until an upstream took it
        await admitted(ask.svc, ask.who, ask.frame)
    vectors = await ask.svc.embedder.embed(texts, ask.who, ask.frame.headers)
    if sum(map(len, vectors)) <= FEW:
        return encoded(vectors)
    return await asyncio.to_thread(encoded, vectors)


def worded(texts: Sequence[str], instruction: str) -> list[str]:
    """The texts as they are embedded. Raises BadRequest or TooLarge, which say which text is wrong."""
    before = instruction if not instruction or instruction[-1].isspace() else instruction + " "
    for n, text in enumerate(texts):
        if not text.strip():
            raise BadRequest(f"text[{n}] is blank; leave it out", param=f"text[{n}]")
        if len(before) + len(text) > LONGEST:
            raise TooLarge(f"text[{n}] is longer than {LONGEST:,} characters; split it", param=f"text[{n}]")
    if len(before) * len(texts) + sum(map(len, texts)) > MOST:
        raise TooLarge(f"the texts are longer than {MOST:,} characters together; send fewer", param="text")
    return [before + text for text in texts]


def encoded(vectors: Sequence[Sequence[float]]) -> bytes:
    """The answer, vector by vector: one call for all of them would hold the interpreter's lock for long."""
    return b'{"vectors":[%b]}' % b",".join(map(msgspec.json.encode, vectors))
