"""Changes of a stored thing: PATCH merges, PUT replaces with what is given, all else going back to its default.

Pure. A null leaves a field as it is (PATCH) or at its default (PUT), as Julep does.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from proxy.errors import TooLarge

T = TypeVar("T", bound=msgspec.Struct)

LARGEST = 128 << 10
"""Bytes of the settings of one agent, user or session."""


def given(change: msgspec.Struct) -> dict[str, Any]:
    """The fields that a request sets."""
    values = ((name, getattr(change, name)) for name in change.__struct_fields__)
    return {name: value for name, value in values if value is not UNSET and value is not None}


def as_json(value: Any) -> Any:
    """A nested struct as the JSON object it was made of."""
    return msgspec.to_builtins(value)


def patched(old: T, changes: Mapping[str, Any]) -> T:
    """Objects (metadata, settings) are merged key by key; all else is replaced."""
    merged = {}
    for name in old.__struct_fields__:
        if name in changes:
            before, after = getattr(old, name), as_json(changes[name])
            merged[name] = {**before, **after} if isinstance(before, dict) and isinstance(after, dict) else after
    return _bounded(msgspec.structs.replace(old, **merged))


def replaced(fresh: T, changes: Mapping[str, Any]) -> T:
    """The defaults with what is given in their place."""
    names = set(fresh.__struct_fields__)
    values = {name: as_json(value) for name, value in changes.items() if name in names}
    return _bounded(msgspec.structs.replace(fresh, **values))


def _bounded(fields: T) -> T:
    """What is stored of a thing is read with each list that shows it. Raises TooLarge."""
    size = len(msgspec.json.encode(fields))
    if size > LARGEST:
        raise TooLarge(f"this needs {size:,} bytes of JSON, the limit is {LARGEST:,}; keep large texts in documents")
    return fields
