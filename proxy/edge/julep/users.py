"""Users: who talks in sessions."""

from collections.abc import Sequence

import msgspec

from proxy.edge.julep import shapes
from proxy.edge.julep.merge import given, patched, replaced
from proxy.edge.julep.page import filters, page_of
from proxy.edge.julep.times import known, own_uuid, shown
from proxy.edge.operation import Ask
from proxy.edge.tenants import admitted
from proxy.resources import Member, UserFields
from proxy.services import epoch_ms, new_id
from proxy.store import facets, members
from proxy.store.facets import Facet

_fields = msgspec.json.Decoder(UserFields).decode


async def create(ask: Ask) -> shapes.User:
    """Make a user."""
    return await _put(ask, new_id())


async def put(ask: Ask) -> shapes.User:
    """Make the user of this id, or replace it."""
    return await _put(ask, own_uuid(ask.path["id"], "id"))


async def _put(ask: Ask, uuid: str) -> shapes.User:
    who = await admitted(ask.svc, ask.who, ask.frame)

    def change(old: bytes | None) -> tuple[bytes, Sequence[Facet]]:
        return _stored(replaced(UserFields(), given(ask.given)))

    return shown_user(await members.put(ask.svc.db, who, "user", uuid, members.New(change), epoch_ms()))


async def get(ask: Ask) -> shapes.User:
    """Read a user."""
    return shown_user(await find(ask))


async def find(ask: Ask) -> Member:
    """The user whom the path names. Raises NotFound."""
    return await members.find(ask.svc.db, ask.who, "user", known(ask.path["id"]))


async def patch(ask: Ask) -> shapes.User:
    """Change what is given; metadata is merged."""

    def change(old: bytes | None) -> tuple[bytes, Sequence[Facet]]:
        return _stored(patched(_fields(old or b"{}"), given(ask.given)))

    return shown_user(await members.change(ask.svc.db, ask.who, "user", known(ask.path["id"]), change, epoch_ms()))


async def replace(ask: Ask) -> shapes.User:
    """Replace the user; what is not given goes back to its default."""

    def change(old: bytes | None) -> tuple[bytes, Sequence[Facet]]:
        return _stored(replaced(UserFields(), given(ask.given)))

    return shown_user(await members.change(ask.svc.db, ask.who, "user", known(ask.path["id"]), change, epoch_ms()))


async def page(ask: Ask) -> shapes.Users:
    """List users."""
    found = await members.page(ask.svc.db, ask.who, "user", filters(ask.query), page_of(ask.query))
    return shapes.Users(items=[shown_user(member) for member in found])


async def delete(ask: Ask) -> shapes.Deleted:
    """Delete a user with the documents; the sessions stay."""
    uuid = known(ask.path["id"])
    await members.delete(ask.svc.db, ask.who, "user", uuid)
    return shapes.Deleted(id=uuid, deleted_at=shown(epoch_ms()))


def _stored(fields: UserFields) -> tuple[bytes, Sequence[Facet]]:
    return msgspec.json.encode(fields), facets.of_metadata(fields.metadata)


def shown_user(member: Member) -> shapes.User:
    """A user as clients see it."""
    return shapes.User(
        id=member.uuid,
        created_at=shown(member.created_at),
        updated_at=shown(member.updated_at),
        **msgspec.structs.asdict(_fields(member.body)),
    )
