"""Fixtures for all tests."""

from typing import Any

import pytest


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Async tests run on the loop the product runs on."""
    return "asyncio", {"use_uvloop": True}
