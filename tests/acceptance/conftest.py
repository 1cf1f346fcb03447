"""Fixtures of this package."""

from tests.acceptance.stage import anyio_backend, echo, shared, stage

__all__ = ["anyio_backend", "echo", "shared", "stage"]
