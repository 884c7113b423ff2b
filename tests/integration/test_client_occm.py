"""OCCM of Oracle at a gateway that is configured as docs/client-occm.md says; `openssl cmp` does what it does."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.newer_openssl import newer_openssl
from tests.support.openssl import extended_key_usages, load_certificate
from tests.support.page_site import SECRET, PageSite, make_page_site, served
from tests.support.pages import commands
from tests.support.pki import VendorPKI, make_key, write_certificates, write_key
from tests.support.setups import make_setup

PAGE = "client-occm.md"
VENDOR = """
[endpoints.vendor]
paths = ["/vendor"]
upstream = "bundled"
vendors = ["acme"]
strictness = "lenient"
"""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Path:
    """What `init` makes, with what the page changes of the CA."""
    return make_page_site(tmp_path_factory.mktemp("occm"), PAGE, vendor_pki).parent


@pytest.fixture(scope="module")
def open_setup(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Path:
    """What the demonstration has, where the vendor's devices may have any name."""
    return make_setup(tmp_path_factory.mktemp("open"), vendors={"acme": vendor_pki}).parent


def prepare(setup: Path, directory: Path) -> None:
    """Put there what OCCM is given: keys, the operator's root, and a secret."""
    for name in ("occm", "occm2", "amf", "amf2", "smf", "device"):
        write_key(directory / f"{name}.key", make_key("p256"))
    (directory / "root.pem").write_bytes((setup / "operator" / "root.pem").read_bytes())
    (directory / "occm.secret").write_text(SECRET)


async def told(site: PageSite, command: list[str], *options: str) -> tuple[str, str]:
    """failInfo and rule of a request that has to be refused."""
    done = await site.run(command, *options)
    assert done.returncode != 0, done.stdout
    event = site.events[-1]
    assert event.fail_info is not None
    return event.fail_info.name, event.rule


@pytest.mark.requirement(123)
@pytest.mark.parametrize("newer", [False, True], ids=["openssl of the machine", "openssl 3.5"])
async def test_what_the_page_says_can_be_done(setup: Path, tmp_path: Path, newer: bool) -> None:
    """Its identity under the secret, one function's certificate and its renewal, its own renewal; and on with that."""
    prepare(setup, tmp_path)
    program = newer_openssl() if newer else None
    async with served(setup, tmp_path, PAGE) as site:
        for command in commands(PAGE):
            await site.check(command, program=program)
        outcomes = [(event.body_type, event.outcome, event.domain) for event in site.events]
        opened = [item for item in outcomes if item[0] != "certConf"]
        assert opened == [
            ("ir", "issued", "mac:occm"),
            ("ir", "issued", "ra:occm"),
            ("kur", "issued", "ra:occm"),
            ("kur", "issued", "ra:occm"),
            ("ir", "issued", "ra:occm"),
        ]
    first, second = (load_certificate(tmp_path / f"{name}.pem") for name in ("occm", "occm2"))
    assert first.subject == second.subject
    assert first.serial_number != second.serial_number
    for name in ("amf", "amf2", "smf"):
        assert extended_key_usages(load_certificate(tmp_path / f"{name}.pem")) == {
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        }


@pytest.mark.requirement(67, 123)
async def test_without_the_name_it_is_nobody(setup: Path, tmp_path: Path) -> None:
    """Its certificate is a device's then: it may have its own names, and nobody else's."""
    prepare(setup, tmp_path)
    first, function, _, own, _ = commands(PAGE)
    other = [
        ('subject = "CN=occm.core', 'subject = "CN=another.core'),
        ('sans = ["dns:occm.core', 'sans = ["dns:another.core'),
    ]
    async with served(setup, tmp_path, PAGE, *other) as site:
        await site.check(first)
        assert (await told(site, function))[0] == "signerNotTrusted"  # no vendor's
        await site.check(own)


@pytest.mark.requirement(67, 130)
async def test_what_it_may_not(setup: Path, tmp_path: Path) -> None:
    """Other names than its patterns allow."""
    prepare(setup, tmp_path)
    first, function, *_ = commands(PAGE)
    async with served(setup, tmp_path, PAGE) as site:
        await site.check(first)
        other = "/O=Example Operator/CN=enb-1.ran.example.net"
        assert await told(site, function, "-subject", other) == ("notAuthorized", "R67")
        others = ("-sans", "amf-1.nf.example.net,enb-1.ran.example.net")
        assert await told(site, function, *others) == ("notAuthorized", "R67")


async def test_a_device_is_not_given_its_names(
    open_setup: Path, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Although its vendor's rules allow any."""
    prepare(open_setup, tmp_path)
    credential = vendor_pki.device()
    credential.write(tmp_path, "factory")
    write_certificates(tmp_path / "chain.pem", *credential.intermediates)
    asked = shlex.split(
        "openssl cmp -cmd ir -server ra.example.net:8080 -path /vendor -cert factory.pem -key factory.key "
        "-extracerts chain.pem -trusted root.pem -newkey device.key -certout device.pem"
    )
    names = ("-subject", "/O=Example Operator/CN=occm.core.example.net", "-sans", "x.example.net")
    san = ("-subject", "/CN=enb-1.ran.example.net", "-sans", "OCCM.core.example.net")
    async with served(open_setup, tmp_path, PAGE, more=VENDOR) as site:
        for options in (names, san):
            assert await told(site, asked, *options) == ("notAuthorized", "R67")
        await site.check(asked, "-subject", "/CN=enb-1.ran.example.net")
