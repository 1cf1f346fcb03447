"""The key that doctor sends to an upstream: the configured one, or the environment's where clients bring theirs."""

from proxy.cli.checks.advice import place
from proxy.cli.checks.finding import Site
from proxy.config import UpstreamConfig, origin

KEY = "OPENAI_API_KEY"
URL = "OPENAI_BASE_URL"


def key(site: Site, upstream: UpstreamConfig) -> str:
    """Empty where there is none. The environment's key goes to nobody but the server that it is for."""
    if site.config.auth.mode != "passthrough":
        return upstream.api_key
    return site.env.get(KEY, "") if _is_for(site, upstream) else ""


def wanted(site: Site, upstream: UpstreamConfig) -> str:
    """What to set so that there is a key for an upstream to which clients bring theirs."""
    if _is_for(site, upstream):
        return f"set {KEY}"
    return f"set {KEY} to a key of that server and {URL} to {place(upstream)}"


def _is_for(site: Site, upstream: UpstreamConfig) -> bool:
    """Whether the environment's key is for this upstream: by OPENAI_BASE_URL, as for every client of OpenAI's."""
    return origin(upstream.base_url) == origin(site.env.get(URL) or UpstreamConfig.base_url)
