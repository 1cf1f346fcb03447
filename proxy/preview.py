"""What a turn would send, composed as `turn.run` composes it: no model is called, nothing is stored."""

from proxy import recollect
from proxy.compose import Composed, compose
from proxy.introduce import rendered
from proxy.profile import dress
from proxy.recollect import Found
from proxy.services import Services, Turn
from proxy.store import sessions


async def preview(svc: Services, turn: Turn) -> tuple[Turn, Found, Composed]:
    """The turn with what its session adds, where it would continue, and what would go upstream."""
    turn = await recollect.settled(svc, turn)
    found = await sessions.find(svc.db, turn.scope, turn.name)
    turn = await rendered(svc, await dress(svc, turn, found))
    at = await recollect.find(svc, turn, found)
    return turn, at, await compose(svc, turn, at)
