"""Fixtures of this package."""

from tests.acceptance.julep_client import play, sdk
from tests.acceptance.stage import anyio_backend, echo, shared, stage

__all__ = ["anyio_backend", "echo", "play", "sdk", "shared", "stage"]
