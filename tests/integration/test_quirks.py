"""What a device was forgiven, through a whole gateway out of its file: restarts, a store that is lost, what to set."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from ra_gateway.cmp.codes import BodyType
from tests.support.answers import fail_names
from tests.support.nodes import running
from tests.support.old_device import OldDevice
from tests.support.pki import VendorPKI
from tests.support.setups import edit, make_setup

QUIRKS = 'quirks = ["short_ids", "wrong_clock", "sha1"]\n'


async def test_a_device_renews_after_restarts_and_losses(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """Redis remembers; where it is flushed the log says which key to set, and that is enough."""
    # The CA takes no proof of possession that is signed with SHA-1.
    upstream = 'kind = "bundled"\npop = "raverified"\n'
    config = make_setup(
        tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url, upstream=upstream
    )
    edit(config, "[vendors.acme]\n", f"[vendors.acme]\n{QUIRKS}")
    clock = datetime(1970, 1, 1, tzinfo=UTC)
    async with running(config) as node:
        device = OldDevice.made(node, vendor_pki.device())
        device = await replace(device, message_time=clock).enrol()
    async with running(config) as node:
        device = await replace(device, world=node).enrol(BodyType.kur)
        assert set(node.events[-2].quirks) == {"short_ids", "wrong_clock", "sha1"}
    async with Redis.from_url(redis_url) as raw:
        await raw.flushdb()
    async with running(config) as node:
        answer = await node.ask(await replace(device, world=node).request(BodyType.kur))
        assert fail_names(answer) == ["badAlg"]
        assert "vendors.<name>.operator_subjects" in node.events[-1].detail
    subject = device.credential.certificate.subject
    edit(config, QUIRKS, f'{QUIRKS}operator_subjects = ["{subject}"]\n')
    async with running(config) as node:
        await replace(device, world=node).enrol(BodyType.kur)
