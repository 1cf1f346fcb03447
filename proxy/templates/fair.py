"""Who waits for a worker: one request of each session, and of those one of each tenant, so that nobody's slow templates
take more than their turn from others."""

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager


class Fair:
    """Locks that exist while somebody holds or awaits them; each is first come, first served."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, list[None]]] = {}

    @asynccontextmanager
    async def place(self, tenant: Hashable, session: Hashable) -> AsyncGenerator[None]:
        """The body runs as the only one of its session, and as the only one of its tenant."""
        async with self._alone((tenant, session)), self._alone(tenant):
            yield

    @asynccontextmanager
    async def _alone(self, key: Hashable) -> AsyncGenerator[None]:
        lock, users = self._locks.setdefault(key, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[key]
