"""session-proxy: an OpenAI-compatible proxy that remembers."""

__version__ = "0.1.0"
