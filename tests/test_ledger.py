"""A ledger as it is stored and shown."""

from proxy.context.assemble import Limits, Material, assemble
from proxy.context.transcript import Piece
from proxy.ledger import Weight, ledger
from tests.inprocess import words

KEYS = ["turn", "branch", "strategy", "budget", "total", "factor", "estimate", "prefix", "segments"]
NEW = Piece("user", b"{}", 10)


def shown(number: int | None, budget: int | None, weight: Weight) -> dict[str, object]:
    material = Material(b"", 5, 7, [], 0, 0, [NEW], 13)
    return ledger(number, 2, assemble(material, Limits(budget, "adaptive", 0, 0.5), words), weight)


def test_it_tells_raw_tokens_and_what_the_upstream_will_count() -> None:
    told = shown(3, 100, Weight(40, 12))
    assert list(told) == KEYS
    assert [told[key] for key in KEYS[:-1]] == [3, 2, "adaptive", 100, 25, 1.6, 40, 12]
    assert told["segments"] == [
        {"source": "system", "tokens": 5, "kept": True, "reason": "instructions"},
        {"source": "tools", "tokens": 7, "kept": True, "reason": "tools"},
        {"source": "new", "count": 1, "tokens": 13, "kept": True, "reason": "new"},
    ]


def test_a_preview_has_no_number_and_a_turn_without_a_limit_no_budget() -> None:
    told = shown(None, None, Weight(25, 0))
    assert (told["turn"], told["budget"], told["factor"]) == (None, None, 1.0)
