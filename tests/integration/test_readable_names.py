"""Names as people read them: in the log of an enrolment, and in what commands list afterwards."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import structlog

from ra_gateway import logs
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.names import from_rfc4514, plain_rfc4514, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.x520 import ATTRIBUTE_FORMS
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.logs import LogSink
from tests.support.commandline import succeeded
from tests.support.credentials import cmp_credential
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup
from tests.support.sites import served

DOTTED: Final = re.compile(r"\b\d+(?:\.\d+)+=")


_NOT_MANY: Final = (OID.serialNumber, OID.commonName, OID.domainComponent, OID.telephoneNumber)
"""Each name has the first two; one DC is no domain; the last is a string of another type than is made of a text."""


def name(serial: str, half: int) -> str:
    """Return a name with every other attribute that can be certified."""
    rest = [item for item in ATTRIBUTE_FORMS if item not in _NOT_MANY]
    values = [f"{dotted}={_value(dotted)}" for dotted in rest[half::2]][:14]
    return ",".join((f"serialNumber={serial}", "CN=a.example.net", *values))


def _value(dotted: str) -> str:
    if dotted == OID.emailAddress:
        return "a@a.example.net"
    return "FI" if ATTRIBUTE_FORMS[dotted] == ATTRIBUTE_FORMS[OID.countryName] else "a"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("half", [0, 1])
def test_no_attribute_is_told_by_its_number(
    tmp_path: Path, vendor_pki: VendorPKI, capfd: pytest.CaptureFixture[str], half: int
) -> None:
    """By the gateway and the CA, of what is granted and what is refused; nor in any list."""
    path = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    logs.configure("json", "info")
    own = rfc4514(from_rfc4514(name("A006", half)))
    credential = cmp_credential(vendor_pki.sub.issue(own, "p256"))
    root = tmp_path / "site/operator/root.pem"
    asked = name("A006", 1 - half)

    async def dialogue() -> None:
        async with served(path, vendor_pki, root, sink=LogSink(), revoked=set, refuse=dict) as site:
            identity = site.identity(credential)
            san = (f"dn:{asked}", "dns:a.example.net", "email:a@a.example.net")
            done = await site.run(site.enrollment(identity, BodyType.ir, subject=asked, san=san))
            other = site.enrollment(done.identity, BodyType.kur, subject=name("A007", half))
            with pytest.raises(EnrollmentRefused):
                await site.run(other)

    asyncio.run(dialogue())
    told = capfd.readouterr().err
    lines = map(json.loads, told.splitlines())
    events = [line for line in lines if "endpoint" in line]  # the gateway's messages
    (issued,) = (item for item in events if item["outcome"] == "issued")
    assert from_rfc4514(issued["subject"]) == from_rfc4514(asked)
    assert plain_rfc4514(issued["signer"]) == own
    (refused,) = (item for item in events if item["outcome"] == "refused")
    assert "serialNumber=A007" in refused["detail"]
    serial = issued["serial_number"]
    (entity,) = json.loads(succeeded("ca", "entity", "list", "--json", "--config", path))
    commands = (
        ["list"], ["show", serial], ["history", "serialNumber=A006"], ["history", "2.5.4.5=A006"],
        ["entity", "list"], ["entity", "list", "--pattern", "*serialNumber=A006*"],
        ["entity", "show", entity["name"]], ["role", "list"], ["role", "show", "ra"], ["ra", "show", "gateway"],
    )  # fmt: skip
    for command in commands:
        for form in ([], ["--json"]):
            listed = succeeded("ca", *command, *form, "--config", path)
            assert not DOTTED.search(listed), command
            assert "serialNumber=A006" in listed or command[0] in ("role", "ra")
    assert not DOTTED.search(told)
