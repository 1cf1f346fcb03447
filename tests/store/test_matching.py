"""Whatever a word holds, what FTS5 is asked for is no error and no operator."""

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store import matching


@pytest.mark.parametrize(
    ("word", "asked"),
    [
        ("ship", '"ship"'),
        ("foo-bar", '"foo" AND "bar"'),
        ("snake_case", '"snake" AND "case"'),
        ('"', ""),
        ("", ""),
        ("NOT", '"NOT"'),
    ],
)
def test_a_word_is_asked_for_by_its_pieces(word: str, asked: str) -> None:
    assert matching.all_of(word) == asked


@given(st.text(max_size=200))
def test_any_text_can_be_asked_for(text: str) -> None:
    asked = matching.all_of(text)
    if not asked:
        return
    connection = apsw.Connection(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE t USING fts5 (text, detail = column, tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    assert connection.execute("SELECT rowid FROM t WHERE t MATCH ?", (asked,)).fetchall() == []
    connection.close()
