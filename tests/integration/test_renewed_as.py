"""Sites of an earlier release: role and certificates have a profile that is stricter now, and steps lead out of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.ca.profiles import PROFILES
from ra_gateway.ca.records import Privilege, Role
from ra_gateway.cli.setup import write_setup
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crl import distribution_point_urls
from ra_gateway.device.errors import EnrollmentFailed
from ra_gateway.keys import load_certificates
from tests.support.commandline import run, succeeded
from tests.support.pki import VendorPKI
from tests.support.ports import free_port
from tests.support.profiles import NE_IPSEC
from tests.support.sites import Site, served

SUBJECT = "CN=enb-1"
"""As earlier releases certified it, and TS 33.310 6.1.1 does not."""

LOOSE = '[ca.profiles.as_they_are]\nbase = "ne_ipsec"\nsubject_form = "any"\nsan_required = false\n'
RENEW_AS = 'renew_as = { ne_ipsec = "as_they_are" }'


@asynccontextmanager
async def serve(path: Path, vendor: VendorPKI) -> AsyncIterator[Site]:
    root = path.parent / "operator" / "root.pem"
    async with served(path, vendor, root, revoked=set, refuse=dict) as site:
        yield site


def old_setup(directory: Path, vendor: VendorPKI) -> Path:
    """Write what `init` wrote before: neither [ca.status] nor crl_url nor profile."""
    vendor.write(directory / "acme")
    path = write_setup(
        directory,
        organisation="Example Operator",
        vendors={"acme": ("acme/root.pem", "acme/sub.pem")},
        domain=None,
        now=datetime.now(UTC),
        port=0,
        status_port=free_port(),
    )
    head, rest = path.read_text().split("[ca]\n")
    _, endpoints = rest.split("[endpoints.ran]")
    ca = '[ca]\ndirectory_path = "ca"\nledger_path = "ca/ledger.sqlite"\n'
    text = f"{head}{ca}\n[endpoints.ran]{endpoints}".split("[ca.profiles")[0]
    assert "[vendors.acme" in text
    path.write_text(text)
    return path


def set_ca(path: Path, *lines: str, tables: str = "") -> None:
    """Put settings into [ca], and tables at the end."""
    text = path.read_text().replace("[ca]\n", "\n".join(("[ca]", *lines, "")))
    path.write_text(f"{text}\n{tables}")


async def put_role(path: Path, *profiles: str) -> None:
    """The role of the gateway as earlier releases made it."""
    ledger = open_ledger(path.parent / "ca" / "ledger.sqlite")
    await ledger.open()
    try:
        role = Role("ra", frozenset(Privilege), profiles)
        await ledger.registry.put_role(role, "init", datetime.now(UTC) - timedelta(days=1))
    finally:
        await ledger.close()


async def recorded(path: Path, certificate: Certificate) -> str:
    ledger = open_ledger(path.parent / "ca" / "ledger.sqlite")
    await ledger.open()
    try:
        found = await ledger.certificate(certificate.serial_number, datetime.now(UTC))
        assert found is not None
        return found.profile
    finally:
        await ledger.close()


@pytest.fixture
async def old_site(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Any]:
    """A configuration, and a device that enrolled when ne_ipsec was what it was."""
    path = old_setup(tmp_path / "site", vendor_pki)
    await put_role(path, "ne_ipsec")
    with monkeypatch.context() as before:
        loose = {**PROFILES, "ne_ipsec": NE_IPSEC}
        before.setattr("ra_gateway.app.profiles.PROFILES", loose)
        async with serve(path, vendor_pki) as site:
            done = await site.run(site.enrollment(site.identity(), BodyType.ir, subject=SUBJECT))
    assert await recorded(path, done.certificate) == "ne_ipsec"
    return path, done


async def renew(path: Path, vendor: VendorPKI, done: Any) -> Any:
    async with serve(path, vendor) as site:
        return await site.run(site.enrollment(done.identity, BodyType.kur))


@pytest.mark.requirement("T1", "T14")
async def test_the_steps_of_the_update(old_site: tuple[Path, Any], vendor_pki: VendorPKI) -> None:
    """Each is needed; after the last the device renews, again and again, and still revokes what it had."""
    path, done = old_site
    ended = await asyncio.to_thread(run, "check-config", "--config", path)
    assert ended.exit_code == 2
    assert "add [ca.status]" in ended.stderr
    url = f"http://127.0.0.1:{free_port()}/crl/{{issuer}}.crl"
    status = f"[ca.status]\nlisten_port = {free_port()}\n"
    set_ca(path, f"crl_url = {json.dumps(url)}", tables=status)
    with pytest.raises(EnrollmentFailed, match="badCertTemplate"):
        await renew(path, vendor_pki, done)
    set_ca(path, 'profile = "as_they_are"', tables=LOOSE)
    with pytest.raises(EnrollmentFailed, match="badCertTemplate"):
        await renew(path, vendor_pki, done)
    set_ca(path, RENEW_AS)
    with pytest.raises(EnrollmentFailed, match="notAuthorized"):
        await renew(path, vendor_pki, done)
    privileges = [part for item in Privilege for part in ("--privilege", item)]
    role = ("ca", "role", "add", "ra", *privileges, "--profile", "default")
    await asyncio.to_thread(succeeded, *role, "--config", path)
    renewed = await renew(path, vendor_pki, done)
    assert renewed.certificate.subject_der == done.certificate.subject_der
    assert await recorded(path, renewed.certificate) == "as_they_are"
    again = await renew(path, vendor_pki, renewed)
    assert await recorded(path, again.certificate) == "as_they_are"


async def test_who_has_a_profile_that_issues_nothing_is_told(
    old_site: tuple[Path, Any], vendor_pki: VendorPKI
) -> None:
    """A CA starts with a looser default profile and no URL of a CRL; its role and its certificates have another."""
    path, done = old_site
    set_ca(path, 'profile = "as_they_are"', tables=f"{LOOSE}crl_required = false\n")
    told = await asyncio.to_thread(succeeded, "check-config", "--config", path)
    assert "ca.crl_url: is not set, and " in told
    with capture_logs() as lines:
        async with serve(path, vendor_pki) as site:
            kur = site.enrollment(done.identity, BodyType.kur)
            ir = site.enrollment(site.identity(), BodyType.ir, subject="CN=enb-2")
            for request in (kur, ir):
                with pytest.raises(EnrollmentFailed, match="systemFailure"):
                    await site.run(request)
    log = "\n".join(map(str, lines))
    assert "role ra: has the profile ne_ipsec, which issues nothing" in log
    assert "ca.renew_as: lacks ne_ipsec" in log


@pytest.mark.requirement("T29")
def test_ra_and_cmp_signer_get_what_they_lack(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """The commands are those that the warnings name; the CA is the same, and the RA is heard with its new key."""
    path = old_setup(tmp_path / "site", vendor_pki)
    set_ca(path, 'crl_url = "http://crl.example.net/{issuer}.crl"', tables="[ca.status]\n")
    ca, ra = tmp_path / "site" / "ca", tmp_path / "site" / "new"
    for name in ("cmp", "ocsp"):
        (ca / f"{name}.pem").unlink()
        (ca / f"{name}.key").unlink()
    succeeded("ca", "renew-signers", ca)  # without names, as earlier releases made them
    (tmp_path / "site" / "ra" / "ra.pem").unlink()
    (tmp_path / "site" / "ra" / "ra.key").unlink()
    succeeded("ca", "issue-ra", ca, tmp_path / "site" / "ra", "--subject", "CN=ra,O=Old")
    told = succeeded("check-config", "--config", path)
    assert f"ra-gateway ca renew-signers --san dns:HOST --crl-url URL {ca}" in told
    assert f"ra-gateway ca issue-ra --san dns:HOST --crl-url URL {ca} NEW" in told
    assert f"ra-gateway ca ra add --config {path} NAME --certificate NEW/ra.pem" in told
    issuing = (ca / "issuing.pem").read_bytes()
    names = ("--san", "dns:cmp.example.net", "--crl-url", "http://crl.example.net/{issuer}.crl")
    ocsp = (ca / "ocsp.pem").read_bytes()
    assert run("ca", "renew-signers", ca, "--crl-url", "https://x/").exit_code != 0
    # It is made although none is due, and the OCSP signer is not.
    made = succeeded("ca", "renew-signers", "--within-days", "1", *names, ca)
    assert made.startswith("Made cmp.pem.")
    assert (ca / "ocsp.pem").read_bytes() == ocsp
    succeeded("ca", "issue-ra", *names, ca, ra)
    succeeded("ca", "ra", "add", "gateway", "--certificate", ra / "ra.pem", "--config", path)
    path.write_text(path.read_text().replace('"ra/ra.', '"new/ra.'))
    told = succeeded("check-config", "--config", path)
    assert "TS 33.310 9.4.6" not in told
    assert (ca / "issuing.pem").read_bytes() == issuing
    (certificate,) = load_certificates(ca / "cmp.pem", "")[:1]
    san_der, urls = certificate.subject_alt_name_der, distribution_point_urls(certificate)
    assert len(urls) == 1
    # One of the two keeps the other, and its successor has both.
    succeeded("ca", "renew-signers", "--crl-url", "http://two.example.net/a.crl", ca)
    (certificate,) = load_certificates(ca / "cmp.pem", "")[:1]
    assert certificate.subject_alt_name_der == san_der
    assert distribution_point_urls(certificate) == ("http://two.example.net/a.crl",)


@pytest.mark.requirement("T14")
@pytest.mark.parametrize(
    "settings, status, told",
    [
        (["crl_url"], "", ["ca.crl_url: is set, and there is no [ca.status]"]),
        (["crl_url"], 'listen_host = "127.0.0.1"', []),
        (["crl_url"], 'listen_host = "0.0.0.0"', ["ca.crl_url: has the host 127.0.0.1"]),
        (
            ["crl_url", "ocsp_url"],
            'listen_host = "192.0.2.1"',
            ["ca.crl_url: has the host 127.0.0.1", "ca.ocsp_url: has the host 127.0.0.1"],
        ),
    ],
)
def test_where_nobody_finds_the_crl(
    tmp_path: Path, vendor_pki: VendorPKI, settings: list[str], status: str, told: list[str]
) -> None:
    """It is made by nobody, or named by an address that is everybody's own."""
    path = old_setup(tmp_path / "site", vendor_pki)
    lines = [f'{name} = "http://127.0.0.1:8082/x"' for name in settings]
    set_ca(path, *lines, tables=f"[ca.status]\n{status}\n" if status else "")
    warned = succeeded("check-config", "--config", path).splitlines()
    found = [line for line in warned if "_url: " in line]
    assert len(found) == len(told)
    assert all(text in line for text, line in zip(told, found, strict=True))


@pytest.mark.parametrize("url", ["http://a.example.net/{isuer}.crl", "http://a.example.net/{}"])
def test_a_placeholder_that_there_is_not(tmp_path: Path, vendor_pki: VendorPKI, url: str) -> None:
    """It is said once, where it stands."""
    path = old_setup(tmp_path / "site", vendor_pki)
    set_ca(path, f'crl_url = "{url}"', tables="[ca.status]\n")
    ended = run("check-config", "--config", path)
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert "ca.crl_url: holds" in line
    assert "{issuer} is the only placeholder" in line


@pytest.mark.parametrize(
    "table, told",
    [
        ('{ ne_ipsec = "nothing" }', "ca.renew_as.ne_ipsec: there is no profile 'nothing'"),
        ('{ nothing = "ne_tls" }', "ca.renew_as.nothing: there is no profile 'nothing'"),
        ('{ ne_ipsec = "ra" }', "ca.renew_as.ne_ipsec: ra is for the PKI's own keys"),
        ('{ ra = "as_they_are" }', "ca.renew_as.ra: ra is for the PKI's own keys"),
        ('{ ne_ipsec = "seg" }', "ca.renew_as.ne_ipsec: seg issues nothing without a CRL"),
        ('"ne_ipsec"', "ca.renew_as: "),
    ],
)
def test_what_cannot_be_renewed_by(
    tmp_path: Path, vendor_pki: VendorPKI, table: str, told: str
) -> None:
    """Both profiles are configured, are end entities', and issue."""
    path = old_setup(tmp_path / "site", vendor_pki)
    set_ca(
        path,
        'profile = "as_they_are"',
        f"renew_as = {table}",
        tables=f"{LOOSE}crl_required = false\n",
    )
    ended = run("check-config", "--config", path)
    assert ended.exit_code == 2
    assert told in ended.stderr
