"""What a scripted upstream answers to POST /embeddings."""

import hashlib
from collections.abc import Sequence
from typing import Any

from tests.scripted import Exchange, Step, dump


def numbers(text: str, dimensions: int = 4) -> list[float]:
    """A vector of a text: always the same, and no other text's."""
    mark = hashlib.sha256(text.encode()).digest()
    return [byte / 64 - 2 for byte in mark[:dimensions]]


def listed(vectors: Sequence[Any]) -> dict[str, Any]:
    """The vectors as OpenAI lists them."""
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def embeds(dimensions: int = 4) -> Step:
    """A vector for each text, told from the last to the first; as many numbers as are asked for."""

    async def step(exchange: Exchange) -> None:
        asked = exchange.request.json
        told = listed([numbers(text, asked.get("dimensions", dimensions)) for text in asked["input"]])
        told["data"].reverse()
        await exchange.whole(200, dump(told), {"content-type": "application/json"})

    return step
