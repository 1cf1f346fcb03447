"""Where the proxy is, and which key goes there. Pure."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.config import is_loopback

DEFAULT_URL = "http://127.0.0.1:8080"
KEY = "SESSION_PROXY_API_KEY"
VENDORS_KEY = "OPENAI_API_KEY"
"""Mostly the key of a model server: a proxy on this machine may have it, another one may be anybody's."""


def root_of(url: str) -> str:
    """Where the proxy is: with a scheme, without /v1."""
    given = url.strip()
    scheme, _, rest = (given if "://" in given else f"http://{given}").partition("://")
    return f"{scheme}://{rest.rstrip('/').removesuffix('/v1').rstrip('/')}"


def key_for(url: str, env: Mapping[str, str]) -> str | None:
    """The environment's key for the proxy at an address, if it has one that may go there."""
    return env.get(KEY) or (env.get(VENDORS_KEY) if _is_here(url) else None) or None


def _is_here(url: str) -> bool:
    try:
        return is_loopback(urlsplit(root_of(url)).hostname or "")
    except ValueError:  # no address at all: the client says so
        return False
