"""Texts -> vectors. An embedder stands behind one protocol: in this process, behind an upstream, or none at all.

Vectors have the length 1, so that their product is their cosine. Another kind of embedder: a class here, a row in
`app.embedder_of`, a value of `config.EmbedderConfig.kind`.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import msgspec

from proxy.config import EmbedderConfig, UpstreamConfig
from proxy.errors import NotConfigured, UpstreamError
from proxy.types import Scope
from proxy.upstream.exchange import whole
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Call, Upstream

BATCH = 100
"""Texts of one call of an upstream: what every known one takes."""
PROMPT = 2000
"""Characters that the local embedder reads in the event loop: under 2 ms. More goes to a thread."""
FEW = 16
"""Texts that it reads there."""
SLICE = 64_000
"""Characters that it reads at once there, but for a longer text: others get their turn in between."""
LARGE = 1 << 16
"""Bytes of an answer that are read in the event loop."""
OWN = (b"idempotency-key", b"accept")
"""Headers of the request that are not the calls'."""
PROBE = "The quick brown fox jumps over the lazy dog."

Vector = list[float]


@dataclass(frozen=True, slots=True)
class About:
    """What an embedder is. `dimensions` of a vector, None where that is not known yet."""

    kind: Literal["local", "upstream", "none"]
    model: str | None = None
    dimensions: int | None = None


class Embedder(Protocol):
    """What makes vectors of texts. `scope` and `client`: who asks, and the headers of that request; in `passthrough`
    mode the call of an upstream needs the client's key."""

    def describe(self) -> About:
        """What is configured; nothing is loaded or asked for it."""
        ...

    async def ready(self, scope: Scope) -> About:
        """After a text was embedded. Raises ProxyError, whose message says what to do, where that fails."""
        ...

    async def embed(self, texts: Sequence[str], scope: Scope, client: Mapping[bytes, bytes]) -> list[Vector]:
        """A vector for each text, in their order. Raises ProxyError."""
        ...


class Table(Protocol):
    """A model in this process. `vectors` takes its time, and gives up the interpreter's lock for most of it."""

    name: str
    dimensions: int

    def vectors(self, texts: Sequence[str]) -> list[Vector]: ...


class Off:
    """No embedder."""

    def describe(self) -> About:
        return About("none")

    async def ready(self, scope: Scope) -> About:
        raise off()

    async def embed(self, texts: Sequence[str], scope: Scope, client: Mapping[bytes, bytes]) -> list[Vector]:
        raise off()


class Local:
    """A model in this process, loaded at its first use and shared from then on. One request at a time computes, slice
    by slice: it takes a core from everybody else."""

    def __init__(self, load: Callable[[], Table]) -> None:
        self._load = load
        self._table: Table | None = None
        self._loading = asyncio.Lock()
        self._turn = asyncio.Lock()

    def describe(self) -> About:
        if self._table is None:
            return About("local")
        return About("local", self._table.name, self._table.dimensions)

    async def ready(self, scope: Scope) -> About:
        await self.embed([PROBE], scope, {})
        return self.describe()

    async def embed(self, texts: Sequence[str], scope: Scope, client: Mapping[bytes, bytes]) -> list[Vector]:
        table = await self._loaded()
        if len(texts) <= FEW and sum(map(len, texts)) <= PROMPT:
            return table.vectors(texts)
        found: list[Vector] = []
        for part in slices(texts, SLICE):
            async with self._turn:
                found += await asyncio.to_thread(table.vectors, part)
        return found

    async def _loaded(self) -> Table:
        if self._table is None:
            async with self._loading:
                if self._table is None:
                    self._table = await asyncio.to_thread(self._load)
        return self._table


class Remote:
    """POST /embeddings of an upstream. Always the same one: vectors of two models cannot be compared."""

    def __init__(self, settings: EmbedderConfig, upstream: UpstreamConfig, client: Upstream, answer_mb: int) -> None:
        self._settings = settings
        self._upstream = upstream
        self._client = client
        self._limit = answer_mb << 20

    def describe(self) -> About:
        return About("upstream", self._settings.model, self._settings.dimensions)

    async def ready(self, scope: Scope) -> About:
        ((*vector,),) = await self.embed([PROBE], scope, {})
        return replace(self.describe(), dimensions=len(vector))

    async def embed(self, texts: Sequence[str], scope: Scope, client: Mapping[bytes, bytes]) -> list[Vector]:
        found: list[Vector] = []
        for at in range(0, len(texts), BATCH):
            found += await self._batch(texts[at : at + BATCH], scope, client)
        if len({len(vector) for vector in found}) > 1:
            raise unusable("vectors of several lengths")
        return found

    async def _batch(self, texts: Sequence[str], scope: Scope, client: Mapping[bytes, bytes]) -> list[Vector]:
        kept = {name: value for name, value in client.items() if name not in OWN}
        headers = upstream_headers(scope.credential, self._upstream, {**kept, b"accept": b"application/json"})
        asked: dict[str, object] = {"model": self._settings.model, "input": texts, "encoding_format": "float"}
        if self._settings.dimensions is not None:
            asked["dimensions"] = self._settings.dimensions
        call = Call("POST", "/embeddings", msgspec.json.encode(asked), headers)
        raw = await whole(self._client, self._upstream, call, scope.credential is None, self._limit)
        if len(raw) <= LARGE:
            return vectors_of(raw, len(texts))
        return await asyncio.to_thread(vectors_of, raw, len(texts))


def off() -> NotConfigured:
    """What stands in the place of vectors where there is no embedder."""
    return _not_configured("embeddings are off: set recall.embedder.kind to local or upstream")


def not_installed(why: str) -> NotConfigured:
    """What stands there where the local embedder cannot be loaded."""
    return _not_configured(
        f'the local embedder cannot be loaded ({why}): run pip install "session-proxy[embeddings]", or set '
        "recall.embedder.kind to upstream or none"
    )


def _not_configured(message: str) -> NotConfigured:
    """Asking again does not help."""
    return NotConfigured(message, code="embedder_not_configured", headers={"x-should-retry": "false"})


def unusable(what: str) -> UpstreamError:
    """An upstream's answer to POST /embeddings that gives no vectors."""
    return UpstreamError(
        f"the upstream's embeddings cannot be used: {what}; check recall.embedder", code="bad_embeddings"
    )


def slices(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The texts in parts of at most `size` characters; a longer text is a part of its own."""
    start = held = 0
    for n, text in enumerate(texts):
        if n > start and held + len(text) > size:
            yield texts[start:n]
            start, held = n, 0
        held += len(text)
    if start < len(texts):
        yield texts[start:]


class _Item(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Item]


_answer = msgspec.json.Decoder(_Answer).decode


def vectors_of(raw: bytes, count: int) -> list[Vector]:
    """The vectors of an answer to POST /embeddings, in the order of the `count` texts. Raises UpstreamError."""
    try:
        items = _answer(raw).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise unusable("no lists of numbers under data[].embedding") from None
    if len(items) != count:
        raise unusable(f"{len(items)} vectors for {count} texts")
    places = [n if item.index is None else item.index for n, item in enumerate(items)]
    if sorted(places) != list(range(count)):
        raise unusable("data[].index does not number the texts")
    ordered = dict(zip(places, items, strict=True))
    found = [normalised(ordered[n].embedding) for n in range(count)]
    if len({len(vector) for vector in found}) > 1:
        raise unusable("vectors of several lengths")
    return found


def normalised(vector: Vector) -> Vector:
    """The vector with the length 1. Raises UpstreamError for one that has no direction."""
    length = math.hypot(*vector)
    if not 0.0 < length < math.inf:
        raise unusable("a vector without a length")
    return [part / length for part in vector]
