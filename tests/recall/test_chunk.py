"""Documents in pieces: nothing is lost, nothing is too long, cuts stand where one reads on easily."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.recall.chunk import LARGEST, pieces

TEXTS = st.lists(st.text(alphabet=st.sampled_from("ab cd.\n!é中\u2028"), max_size=6000), max_size=3)


@given(TEXTS)
def test_every_word_is_in_a_piece_and_in_order(texts: list[str]) -> None:
    kept = "".join("".join(pieces(texts)).split())
    assert kept == "".join("".join(texts).split())


@given(TEXTS)
def test_no_piece_is_too_long_or_blank(texts: list[str]) -> None:
    assert all(0 < len(piece) <= LARGEST and piece == piece.strip() for piece in pieces(texts))


def test_a_short_text_is_one_piece() -> None:
    assert pieces(["One.\n\nTwo."]) == ["One.\n\nTwo."]


def test_each_text_has_its_own_pieces() -> None:
    assert pieces(["One.", "Two."]) == ["One.", "Two."]


def test_paragraphs_are_cut_before_sentences() -> None:
    first, second = "a" * 900 + ". " + "b" * 100 + ".", "c" * 900
    assert pieces([f"{first}\n\n{second}"]) == [first, second]


def test_a_word_without_end_is_cut_somewhere() -> None:
    assert [len(piece) for piece in pieces(["x" * (2 * LARGEST + 1)])] == [LARGEST, LARGEST, 1]
