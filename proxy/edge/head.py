"""A turn's first event -> the start of its response: what the turn was, and what was sent."""

from proxy.context.assemble import Plan
from proxy.edge.deliver import Head, RawHeaders
from proxy.events import Begin
from proxy.services import Turn


def head(turn: Turn, begin: Begin, facts: dict[str, object], status: int = 200) -> Head:
    """The response's headers: what the turn was and what was sent. `facts` takes down what the log tells of it."""
    facts.update(session=begin.uuid, turn=begin.number, branch=begin.branch, model=begin.model or turn.target.model)
    if begin.plan is not None:
        facts.update(upstream=begin.upstream.get("x-upstream"), tokens=begin.plan.total, dropped=begin.plan.dropped)
        facts["overhead_ms"] = round(begin.overhead_s * 1000, 2)
    given = {
        "content-type": "text/event-stream; charset=utf-8" if turn.stream else "application/json",
        "x-request-id": turn.request_id,
        "x-session-id": turn.name,
        "x-session-uuid": begin.uuid,
        "x-session-branch": str(begin.branch),
        **begin.upstream,
    }
    if turn.stream:
        given["cache-control"] = "no-cache"
    if begin.number is not None:
        given["x-session-turn"] = str(begin.number)
    if begin.plan is None:
        given["idempotent-replayed"] = "true"
    else:
        given |= _context(begin, begin.plan)
        given["x-proxy-overhead-ms"] = f"{begin.overhead_s * 1000:.2f}"
    headers: RawHeaders = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    return Head(status, headers)


def _context(begin: Begin, plan: Plan) -> dict[str, str]:
    budget = "none" if plan.budget is None else plan.budget
    summary = f"summary={plan.summary};" if plan.summary else ""
    given = {
        "x-context-tokens": f"total={plan.total};estimate={begin.estimate};system={plan.system};{summary}"
        f"history={plan.history};recall={plan.recall};tools={plan.tools};new={plan.new};budget={budget}",
        "x-context-dropped": str(plan.dropped),
        "x-context-recalled": str(begin.recalled),
        "x-context-strategy": plan.strategy,
    }
    if begin.errors:
        given["x-session-error"] = "; ".join(begin.errors)
    return given
