"""Which of the models that a server lists hold a conversation. Pure."""

from collections.abc import Iterable

OTHERS = (
    "embed", "rerank", "whisper", "transcribe", "tts", "dall-e", "sora", "image", "audio", "realtime", "moderation",
    "guard", "babbage", "davinci",
)  # fmt: skip
"""Parts of the names of models that hold none."""


def chatting(listed: Iterable[str]) -> list[str]:
    """Those that may, by their names."""
    return [name for name in listed if not any(part in name.lower() for part in OTHERS)]
