"""Jobs. Nothing runs in the background here: what a call makes is done when it returns, and so is its job.

Intentional: the id of a thing is the id of its job. Programs that wait until what they made is done, wait for nothing.
"""

from proxy.edge.julep import file_shapes as shapes
from proxy.edge.julep.times import shown, uuid_of
from proxy.edge.operation import Ask
from proxy.errors import NotFound
from proxy.store import docs, files, members, settings


async def get(ask: Ask) -> shapes.JobStatus:
    """Read a job: that of an agent, a user, a session, a document or a file, by its id, has succeeded."""
    id = uuid_of(ask.path["id"])
    name, made_at = await _made(ask, id) if id is not None else ("", None)
    if made_at is None or id is None:
        raise NotFound(
            "there is no such job: nothing runs in the background here, what a call makes is done when it returns; "
            "the id of an agent, a user, a session, a document or a file gives the job that made it",
            code="job_not_found",
        )
    when = shown(made_at)
    return shapes.JobStatus(
        id=id, name=name, reason="done when the call that made it returned", created_at=when, updated_at=when
    )


async def _made(ask: Ask, uuid: str) -> tuple[str, int | None]:
    """What has that id, and when it was made; None where nothing has it."""
    db, who = ask.svc.db, ask.who
    lookups = {
        "doc": lambda: docs.find(db, who, uuid),
        "file": lambda: files.find(db, who, uuid),
        "session": lambda: settings.find(db, who, uuid),
        "agent": lambda: members.find(db, who, "agent", uuid),
        "user": lambda: members.find(db, who, "user", uuid),
    }
    for name, find in lookups.items():
        try:
            return name, (await find()).created_at
        except NotFound:
            continue
    return "", None
