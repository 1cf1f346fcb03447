"""Which part of the history is sent when not all of it fits."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from proxy.context.overflow import STRATEGIES, Digest, Kept, Room, to_summarize
from proxy.context.transcript import Piece
from proxy.errors import ContextTooLong

truncate, everything = STRATEGIES["truncate"], STRATEGIES["null"]
adaptive, summarize = STRATEGIES["adaptive"], STRATEGIES["summarize"]


def line(*shape: str, tokens: int = 10) -> list[Piece]:
    """Pieces of ten tokens: u is a question, a an answer, c calls, t a result; each string is a turn."""
    roles = {"u": "user", "a": "assistant", "c": "assistant", "t": "tool"}
    flat = [(letter, turn) for turn, letters in enumerate(shape, 1) for letter in letters]
    return [
        Piece(roles[letter], b"{}", tokens, seq, turn, int(letter == "c")) for seq, (letter, turn) in enumerate(flat, 1)
    ]


def room(pieces: Sequence[Piece], budget: int | None, cut: int = 0, **fields: Any) -> Room:
    given: dict[str, Any] = {"fixed": 0, "new": 10, "evict_to": 0.5, "must": len(pieces), "user": None} | fields
    return Room(pieces=pieces, budget=budget, cut=cut, **given)


TURNS = line("ua", "ua", "ua", "ua", "ua")


def test_without_a_budget_everything_is_sent() -> None:
    assert truncate(room(TURNS, None)) == Kept(0)
    assert everything(room(TURNS, None)) == Kept(0)


def test_what_fits_is_sent_to_the_last_token() -> None:
    assert truncate(room(TURNS, 110)) == Kept(0)


def test_whole_turns_leave_until_the_share_is_reached() -> None:
    assert truncate(room(TURNS, 109)) == Kept(6)  # 54 tokens: two turns
    assert truncate(room(TURNS, 80)) == Kept(6)  # exactly 40
    assert truncate(room(TURNS, 79)) == Kept(8)


def test_the_share_is_one_of_what_system_and_tools_leave() -> None:
    assert truncate(room(TURNS, 109, fixed=29)) == Kept(6)
    assert truncate(room(TURNS, 109, fixed=30)) == Kept(8)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.25])
def test_the_share_can_be_set(share: float) -> None:
    kept = truncate(room(TURNS, 100, evict_to=share))
    assert (10 - kept.start) * 10 <= 100 * share


def test_the_last_cut_stays_while_it_fits() -> None:
    for end in range(6, 11):
        assert truncate(room(TURNS[:end], 100, cut=5)) == Kept(4)


def test_a_cut_that_fits_no_more_moves_down_to_the_share() -> None:
    assert truncate(room(TURNS, 69, cut=3)) == Kept(8)


def test_a_turn_too_large_for_the_share_stays_if_it_fits() -> None:
    pieces = line("ua", "ucta")
    assert truncate(room(pieces, 60)) == Kept(2)


def test_a_turn_too_large_for_the_budget_is_cut_between_groups() -> None:
    pieces = line("ua", "uctctctcta")
    kept = truncate(room(pieces, 70, evict_to=0.7, user=2))
    assert kept == Kept(9, user=2)
    assert pieces[kept.start].role == "assistant"


def test_results_never_lead() -> None:
    pieces = line("uctttttt")
    assert truncate(room(pieces, 60, user=0)) == Kept(8, user=0)


def test_the_calls_that_new_results_answer_are_sent() -> None:
    pieces = line("ua", "ua", "uc")
    assert truncate(room(pieces, 35, must=5, user=4)) == Kept(4)
    assert truncate(room(pieces, 30, must=5, user=4)) == Kept(4)
    with pytest.raises(ContextTooLong) as caught:
        truncate(room(pieces, 29, must=5, user=4))
    assert caught.value.param == "messages"
    assert "30" in caught.value.message
    assert "29" in caught.value.message


def test_the_newest_question_is_sent_though_its_turn_is_not() -> None:
    pieces = line("uctctctct")
    assert truncate(room(pieces, 50, must=7, user=0)) == Kept(7, user=0)


def test_null_leaves_nothing_out() -> None:
    assert everything(room(TURNS, 110)) == Kept(0)
    with pytest.raises(ContextTooLong) as caught:
        everything(room(TURNS, 109))
    assert "110" in caught.value.message
    assert "109" in caught.value.message


def test_the_strategies_of_the_contract_all_run() -> None:
    assert {"truncate", "null", "adaptive", "summarize"} <= set(STRATEGIES)


# --- clearing ---

TOOLS = line("ucta", "ucta", "ucta", "ucta", "ua")
"""18 pieces, results of ten tokens at 3, 7, 11, 15."""


def test_nothing_is_cleared_while_everything_fits() -> None:
    assert adaptive(room(TOOLS, 190, results=1, marker=1)) == Kept(0)


def test_old_results_are_cleared_before_anything_leaves() -> None:
    assert adaptive(room(TOOLS, 189, results=1, marker=1, evict_to=0.8)) == Kept(0, cleared=12)  # 180 - 3 * 9 = 153
    assert adaptive(room(TOOLS, 189, results=4, marker=1)) == truncate(room(TOOLS, 189))


def test_what_clearing_does_not_make_room_for_leaves() -> None:
    assert adaptive(room(TOOLS, 112, results=1, marker=1)) == Kept(16, cleared=12)
    assert adaptive(room(TOOLS, 112, results=0, marker=1)) == Kept(12, cleared=16)  # 51 tokens


def test_a_marker_that_saves_nothing_is_none() -> None:
    assert adaptive(room(TOOLS, 100, results=1, marker=10)) == truncate(room(TOOLS, 100))


def test_results_of_the_calls_that_are_answered_now_are_never_cleared() -> None:
    pieces = line("ucta", "uct")
    kept = adaptive(room(pieces, 70, results=0, marker=1, must=5, user=4))
    assert kept.cleared == 4


# --- summaries ---


def test_a_summary_goes_on_standing_in_for_what_left() -> None:
    old = Digest(4, 15, b"s")
    assert summarize(room(TURNS, 85, cut=5, current=old)) == Kept(4, summary=old)
    assert summarize(room(TURNS, 84, cut=5, current=old)).start > 4


def test_a_prepared_summary_takes_the_place_of_what_leaves() -> None:
    old, ready = Digest(2, 15, b"old"), Digest(6, 15, b"ready")
    assert summarize(room(TURNS, 70, cut=3, current=old, prepared=ready)) == Kept(6, summary=ready)


def test_without_a_summary_it_leaves_as_under_truncate() -> None:
    assert summarize(room(TURNS, 80)) == truncate(room(TURNS, 80))


def test_a_summary_that_takes_too_much_room_is_left_out() -> None:
    pieces = line("ua", "uc")
    large = Digest(2, 100, b"s")
    assert summarize(room(pieces, 35, cut=3, must=3, user=2, current=large)) == Kept(2)


def test_what_leaves_next_is_summarized_ahead() -> None:
    def asked(end: int, **fields: Any) -> int | None:
        given = room(TURNS[:end], 130, summaries=True, **fields)
        return to_summarize(given, summarize(given))

    assert asked(8) is None  # 80 of 120 tokens
    assert asked(10) == 6  # 100: 55 will leave
    assert asked(10, prepared=Digest(6, 5, b"s")) is None
    assert asked(10, cut=5) == 4


def test_what_left_without_a_summary_gets_one() -> None:
    given = room(TURNS, 80, summaries=True)
    assert to_summarize(given, summarize(given)) == 6
    assert to_summarize(msgspec.structs.replace(given, summaries=False), summarize(given)) is None
