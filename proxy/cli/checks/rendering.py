"""The templates: their process starts and renders."""

from collections.abc import Sequence

from proxy.cli.checks.finding import Finding, Site, parted
from proxy.errors import ProxyError
from proxy.templates.renderer import Renderer

NAME = "templates"
FIX = "look for limits on processes and memory (ulimit -u, ulimit -v, the container's): it runs in one of its own"


async def check(_site: Site) -> Sequence[Finding]:
    """Renders a small template as a session would."""
    templates = Renderer()
    try:
        rendered = await templates.render("{{ name }} has {{ 6 * 7 }}", b'{"name": "Ada"}')
    except ProxyError as exc:
        return [Finding(NAME, "failed", parted(exc.message, "")[0], FIX)]
    finally:
        await templates.aclose()
    if rendered.text != "Ada has 42":
        return [Finding(NAME, "failed", "a template was rendered wrongly", "pip install --force-reinstall jinja2")]
    return [Finding(NAME, "ok", "the process that renders starts and renders")]
