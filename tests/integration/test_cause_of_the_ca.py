"""Why the bundled CA refused: in the gateway's own line, and nowhere that a base station could read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ra_gateway.cmp.codes import BodyType
from ra_gateway.device.client import post
from ra_gateway.logs import LogSink
from tests.support.commandline import succeeded
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup
from tests.support.sites import SUBJECT, served


@pytest.mark.parametrize("blocked", ["the end entity", "the RA"])
def test_the_gateways_line_says_why_the_ca_refused(
    tmp_path: Path, vendor_pki: VendorPKI, blocked: str
) -> None:
    """Of a request that it refuses, and of an RA that it does not hear; the device is told neither."""
    path = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    answers = []

    async def enrol() -> None:
        root = tmp_path / "site/operator/root.pem"
        async with served(path, vendor_pki, root, sink=LogSink(), revoked=set, refuse=dict) as site:
            request = await site.enrollment(site.identity(), BodyType.ir).request()
            answers.append(await post(site.session, site.url, request))

    asyncio.run(enrol())
    name = SUBJECT if blocked == "the end entity" else "gateway"
    kind = "entity" if blocked == "the end entity" else "ra"
    succeeded("ca", kind, "block", name, "--config", path)
    with capture_logs() as lines:
        asyncio.run(enrol())
    (of_ca,) = (line for line in lines if line["event"] == "ca.refused")
    (of_gateway,) = (line for line in lines if line["event"] == "ir")
    assert "blocked" in of_ca["detail"]
    assert (of_gateway["ca_rule"], of_gateway["ca_detail"]) == (of_ca["rule"], of_ca["detail"])
    assert b"blocked" not in answers[1]
