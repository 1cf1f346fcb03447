"""What the product asks of a database. One file per backend; every backend passes one suite of tests."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, LiteralString, Protocol, TypeVar

Value = int | str | bytes | None
Row = tuple[Any, ...]
T = TypeVar("T")


class Tx(Protocol):
    """Statements inside one transaction. Synchronous: nothing can come between two of them."""

    def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]: ...


class Database(Protocol):
    """An open store. Every method raises errors.Unavailable (503) when the storage cannot do its work."""

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        """The rows of a reading query, as of the last commit. For bounded reads over an index."""
        ...

    def transaction(self, work: Callable[[Tx], T]) -> Awaitable[T]:
        """Runs `work` in one transaction; await its result, which comes after the commit is durable. The work is taken
        on at the call: who stops waiting does not stop it.

        An exception from `work` undoes its statements alone, and is raised here.
        """
        ...

    async def apart(self, work: Callable[[Tx], T]) -> T:
        """As `transaction`, for work whose size nothing bounds: it holds up other writers, but not the event loop."""
        ...

    async def ready(self) -> None:
        """Raises Unavailable when the store does not answer."""
        ...

    async def close(self) -> None: ...
