"""Doctor's check of the templates' process."""

import pytest

from proxy.cli.checks import rendering
from proxy.cli.checks.finding import Site
from tests.cli.checks.sites import bad


@pytest.mark.anyio
async def test_a_template_is_rendered() -> None:
    found = await rendering.check(Site())
    assert not bad(found)
    assert "starts and renders" in found[0].said
