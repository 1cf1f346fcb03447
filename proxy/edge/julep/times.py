"""Times and ids as the Sessions API shows them."""

import hashlib
import uuid
from datetime import UTC, datetime

import msgspec

from proxy.errors import BadRequest, Invalid

FIRST = datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def shown(epoch_ms: int) -> datetime:
    """UTC, to the millisecond."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def read(text: str, where: str) -> datetime:
    """A time of a query. Raises Invalid; a number is no time."""
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError as exc:
        loc = ["query", where]
        raise Invalid(f"{where}: {exc}", [{"loc": loc, "msg": str(exc), "type": "datetime"}]) from None


def taken(when: datetime, where: str) -> int:
    """Epoch milliseconds; a time without a zone is taken as UTC. Raises BadRequest for one that UTC
    has no year for."""
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    if not FIRST <= aware <= LAST:
        raise BadRequest(f"{where} must stand between {FIRST.isoformat()} and {LAST.isoformat()}", param=where)
    return round(aware.timestamp() * 1000)


def derived(*parts: object) -> str:
    """A UUID made of what names a thing: the same parts give the same id, and no column is needed for it."""
    mark = hashlib.blake2b("\0".join(str(part) for part in parts).encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=mark, version=5))


def own_uuid(text: str, where: str) -> str:
    """An id that a client chooses for what it makes. Raises Invalid unless it is a UUID."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        loc = ["path", where]
        raise Invalid(f"{where} must be a UUID", [{"loc": loc, "msg": "Invalid UUID", "type": "uuid"}]) from None


def uuid_of(text: str) -> str | None:
    """The id that a text is in its usual form; None for any other text, which is a name."""
    try:
        return text.lower() if str(uuid.UUID(text)) == text.lower() else None
    except ValueError:
        return None


def known(text: str) -> str:
    """An id in a path, in the form in which ids are stored."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text
