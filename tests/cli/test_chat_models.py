"""Models that hold a conversation, told from others by their names."""

from proxy.cli import chat_models


def test_those_that_make_vectors_pictures_or_sounds_are_left_out() -> None:
    listed = ["text-embedding-3-small", "gpt-5", "Whisper-1", "sora-2", "qwen3", "bge-reranker", "llama-guard-4"]
    assert chat_models.chatting(listed) == ["gpt-5", "qwen3"]
    assert chat_models.chatting([]) == []
