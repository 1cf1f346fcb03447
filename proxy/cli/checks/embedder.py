"""The embedder: what makes vectors of texts can be loaded, or asked."""

from collections.abc import Sequence

from proxy.app import client_of, embedder_of
from proxy.cli.checks import credential
from proxy.cli.checks.advice import local
from proxy.cli.checks.finding import Finding, Site, explained
from proxy.config import UpstreamConfig
from proxy.errors import NotConfigured, ProxyError
from proxy.types import Scope
from proxy.upstream.protocol import Upstream

NAME = "embedder"
FIX = "check recall.embedder; only POST /embed needs it, and with kind none that answers 501"


async def check(site: Site) -> Sequence[Finding]:
    """Embeds one short text."""
    settings = site.config.recall.embedder
    if settings.kind == "none":
        return [Finding(NAME, "ok", "recall.embedder.kind is none: texts have no vectors")]
    if settings.kind == "local":
        return [await _tried(site, {}, None)]
    upstream = next((one for one in site.config.upstreams if one.name == settings.upstream), site.config.upstreams[0])
    where = f"upstream {upstream.name}"
    if site.offline and not local(upstream):
        return [Finding(NAME, "skipped", f"{where}: not asked, --offline")]
    if site.config.auth.mode == "passthrough" and not credential.key(site, upstream):
        fix = f"{credential.wanted(site, upstream)} to have it checked"
        return [Finding(NAME, "skipped", f"{where}: clients bring its key", fix)]
    client = client_of(upstream)
    try:
        return [await _tried(site, {upstream.name: client}, upstream)]
    finally:
        await client.aclose()


async def _tried(site: Site, clients: dict[str, Upstream], upstream: UpstreamConfig | None) -> Finding:
    passed = site.config.auth.mode == "passthrough"
    key = credential.key(site, upstream) if upstream else ""
    scope = Scope(1, credential=key.encode() if passed else None)
    try:
        about = await embedder_of(site.config, clients).ready(scope)
    except NotConfigured as exc:  # an extra that is not installed: everything else works
        return Finding(NAME, "warning", *explained(exc, FIX, key))
    except ProxyError as exc:
        said, fix = explained(exc, FIX, key)
        at = f"upstream {upstream.name}: " if upstream else ""
        return Finding(NAME, "failed", at + said, fix)
    return Finding(NAME, "ok", f"{about.kind}: {about.model}, vectors of {about.dimensions} numbers")
