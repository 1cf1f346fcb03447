"""A static embedder: a text's vector is the mean of the vectors of its word pieces, out of a table in a wheel.

The table and the tokenizer are those of the package `wordllama`, which is never imported: its code would set up the
process's logging, pad a batch to its longest text and load a client for downloads. Nothing here opens the network.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from proxy.recall.embed import Vector, not_installed

WEIGHTS = "weights/l2_supercat_256.safetensors"
PIECES = "tokenizers/l2_supercat_tokenizer_config.json"
TENSOR = "embedding.weight"
ROWS = 4096
"""Rows of the table that are added up at once: 4 MB."""


class Static:
    """The table, and the tokenizer that says which rows a text has."""

    name = "wordllama/l2_supercat_256"

    def __init__(self, table: npt.NDArray[np.float16], tokenizer: Tokenizer) -> None:
        self._table = table
        self._tokenizer = tokenizer
        self.dimensions = int(table.shape[1])

    def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """One for each text, of the length 1; of zeros for a text without a word piece."""
        # `encode` would hold the interpreter's lock for as long as it takes.
        pieces = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._mean(np.asarray(found.ids, dtype=np.int64)).tolist() for found in pieces]

    def _mean(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Each row counts as often as its piece stands in the text; a long text has few rows, often."""
        rows, counts = np.unique(ids, return_counts=True)
        total = np.zeros(self.dimensions, dtype=np.float32)
        for at in range(0, len(rows), ROWS):
            part = slice(at, at + ROWS)
            total += counts[part].astype(np.float32) @ self._table[rows[part]].astype(np.float32)
        length = float(np.linalg.norm(total))
        if length > 0:
            total /= length
        return total


def load() -> Static:
    """Reads both files, which takes a third of a second. Raises NotConfigured where the wheel is not installed."""
    found = importlib.util.find_spec("wordllama")
    folders = found.submodule_search_locations if found is not None else None
    if not folders:
        raise not_installed("the package wordllama is missing")
    folder = Path(folders[0])
    try:
        tokenizer = Tokenizer.from_str((folder / PIECES).read_text("utf-8"))
        with safe_open(str(folder / WEIGHTS), framework="np") as file:
            table = file.get_tensor(TENSOR)
    except (OSError, SafetensorError, ValueError) as exc:
        raise not_installed(f"the files of wordllama cannot be read, {type(exc).__name__}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Static(table, tokenizer)
