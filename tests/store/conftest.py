"""A store of every backend: each test of this package runs on all of them."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from proxy.store import sqlite
from proxy.store.database import Database


@pytest.fixture(params=["sqlite"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    """An empty store. A new backend is a new parameter here, not a new test."""
    assert request.param == "sqlite"
    made = sqlite.opened(f"sqlite:///{tmp_path / 'store.db'}", synchronous="normal")
    try:
        yield made
    finally:
        await made.close()
