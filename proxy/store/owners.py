"""Whose documents and tools are: an agent, a user or a session, still there when something is added to it."""

from proxy.errors import NotFound
from proxy.resources import Owner, OwnerKind
from proxy.store.database import Tx
from proxy.types import Scope


def hold(tx: Tx, scope: Scope, owner: Owner) -> None:
    """Before something is added. Raises NotFound when the owner is gone since it was found. A session that has
    something of its own is read in whole by its turns."""
    if owner.kind == "session":
        rows = tx.all(
            "UPDATE sessions SET dressed = 1 WHERE tenant = ? AND id = ? RETURNING id", (scope.tenant, owner.id)
        )
    else:
        rows = tx.all(
            "SELECT 1 FROM members WHERE tenant = ? AND kind = ? AND id = ?", (scope.tenant, owner.kind, owner.id)
        )
    if not rows:
        raise missing(owner.kind)


def missing(kind: OwnerKind) -> NotFound:
    """An unknown one and a foreign one get the same bytes."""
    if kind == "session":
        return NotFound(
            "No session found during get: there is no such session; its id is what creating it returned, or the name "
            "that a client gave it",
            code="session_not_found",
        )
    return NotFound(f"there is no such {kind}; its id is what creating it returned", code=f"{kind}_not_found")
