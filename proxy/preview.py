"""What a turn would send, composed as `turn.run` composes it: no model is called, nothing is stored."""

from proxy import recollect
from proxy.compose import Composed, placed
from proxy.introduce import rendered
from proxy.ledger import ledger
from proxy.profile import dress
from proxy.services import Services, Turn
from proxy.steering import steered
from proxy.store import sessions


async def preview(svc: Services, turn: Turn) -> tuple[Composed, dict[str, object]]:
    """What would go upstream, and the ledger that says why; its turn has no number."""
    turn = await recollect.with_tenant(svc, turn)
    found = await sessions.find(svc.db, turn.scope, turn.name)
    turn = await rendered(svc, steered(svc, await dress(svc, turn, found)))
    at = await recollect.find(svc, turn, found)
    _, composed = await placed(svc, turn, at)
    return composed, ledger(None, at.branch_number, composed.plan, composed.weight)
