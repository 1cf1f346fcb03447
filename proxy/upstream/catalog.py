"""What the upstreams say of their models: the context in tokens, from GET /models, asked once and remembered."""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from proxy.errors import UpstreamError
from proxy.upstream.exchange import read
from proxy.upstream.protocol import Call, Headers, Upstream
from proxy.upstream.route import Target

KNOWN_S = 300.0
UNKNOWN_S = 30.0
WAIT_S = 5.0


class Catalog:
    """Context sizes by upstream and model. A list that does not come is asked for again after half a minute.

    `before`: the one until a reload, which knows already what the upstreams in `same` said.
    """

    def __init__(
        self, upstreams: Mapping[str, Upstream], before: "Catalog | None" = None, same: Collection[str] = ()
    ) -> None:
        self._upstreams = upstreams
        self._sizes: dict[str, dict[str, int]] = {}
        self._until: dict[str, float] = {}
        if before is not None:
            self._sizes = {name: sizes for name, sizes in before._sizes.items() if name in same}
            self._until = {name: until for name, until in before._until.items() if name in same}
        self._asking: dict[str, asyncio.Lock] = {}

    async def context_of(self, target: Target, headers: Headers) -> int | None:
        """The model's context in tokens as its upstream tells it; None if it does not."""
        name = target.upstream.name
        if time.monotonic() >= self._until.get(name, 0.0):
            async with self._asking.setdefault(name, asyncio.Lock()):
                if time.monotonic() >= self._until.get(name, 0.0):
                    await self._ask(name, headers)
        sizes = self._sizes.get(name, {})
        if target.model in sizes:
            return sizes[target.model]
        return next(iter(sizes.values())) if len(sizes) == 1 else None  # the one model answers to any name

    async def _ask(self, name: str, headers: Headers) -> None:
        kept = tuple(pair for pair in headers if pair[0] in (b"authorization", b"user-agent"))
        try:
            async with asyncio.timeout(WAIT_S):
                answer = await self._upstreams[name].send(Call("GET", "/models", b"", kept))
                try:
                    if answer.status in (401, 403):
                        return  # this client's key says nothing to the next one
                    listed = msgspec.json.decode(await read(answer, 32 << 20)) if answer.status == 200 else None
                finally:
                    await answer.aclose()
        except (UpstreamError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            listed = None
        if listed is not None:  # else what was known stays: one failed answer must not lift every budget
            self._sizes[name] = sizes_in(listed)
        self._until[name] = time.monotonic() + (UNKNOWN_S if listed is None else KNOWN_S)


def sizes_in(listed: Any) -> dict[str, int]:
    """Model -> context in tokens, in the words of vLLM, OpenRouter and llama.cpp."""
    out: dict[str, int] = {}
    models = listed.get("data") if isinstance(listed, dict) else None
    for model in models if isinstance(models, list) else ():
        if not isinstance(model, dict) or not isinstance(model.get("id"), str):
            continue
        meta = model.get("meta") if isinstance(model.get("meta"), dict) else {}
        for size in (model.get("max_model_len"), model.get("context_length"), meta.get("n_ctx")):
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                out[model["id"]] = size
                break
    return out
