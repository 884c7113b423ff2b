"""Responders of others: `openssl ocsp` beside a gateway process, and the bundled CA's own for the operator's domain."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.ocsp import OCSPResponder, OCSPSettings
from ra_gateway.ca.status import CAStatus
from ra_gateway.cli.main import app
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import SignerNotTrusted, StatusUnavailable
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.settings import OCSPSettings as ClientSettings
from ra_gateway.revocation.settings import RevocationSettings
from ra_gateway.server.status import StatusListener
from tests.support.credentials import cmp_certificate
from tests.support.crls import make_crl, replace_file
from tests.support.ocsp import delegate
from tests.support.openssl import openssl_cmp_async, openssl_path
from tests.support.pki import Credential, VendorPKI, make_key, write_certificates, write_key
from tests.support.processes import GatewayProcess
from tests.support.setups import make_setup
from tests.support.status import StatusCA, ocsp_signer, status_ca

HOUR = timedelta(hours=1)


# --- openssl ocsp ---------------------------------------------------------------------------------------------


@contextmanager
def openssl_ocsp(
    directory: Path, vendor: VendorPKI, good: Credential, revoked: Credential
) -> Iterator[str]:
    """Run `openssl ocsp` for the vendor's sub-CA, which knows two certificates; yields its URL."""
    rows = [
        f"V\t491231235959Z\t\t{good.certificate.serial_number:X}\tunknown\t/CN=good\n",
        f"R\t491231235959Z\t251201000000Z\t{revoked.certificate.serial_number:X}\tunknown\t/CN=revoked\n",
    ]
    # Its serial numbers have an even number of digits.
    lines = [_even(row) for row in rows]
    (directory / "index.txt").write_text("".join(lines))
    responder_cert, responder_key = delegate(vendor.sub).write(directory, "responder")
    process = subprocess.Popen(
        [
            *(openssl_path(), "ocsp", "-port", "0", "-index", "index.txt", "-nmin", "10"),
            *("-CA", str(write_certificates(directory / "ca.pem", vendor.sub.certificate))),
            *("-rsigner", str(responder_cert), "-rkey", str(responder_key)),
        ],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("ACCEPT"))
        # "ACCEPT 0.0.0.0:PORT PID=..." or "ACCEPT [::]:PORT PID=..."
        port = line.split()[1].rsplit(":", 1)[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.communicate()


def _even(row: str) -> str:
    fields = row.split("\t")
    fields[3] = fields[3].zfill(len(fields[3]) + len(fields[3]) % 2)
    return "\t".join(fields)


async def enrol(
    directory: Path, gateway: GatewayProcess, device: Credential
) -> tuple[int, frozenset[str]]:
    """Ask for a first certificate, as a base station with `openssl cmp`."""
    cert, key = device.write(directory, "own")
    result = await openssl_cmp_async(
        "ir",
        server=gateway.server,
        cert=cert,
        key=key,
        newkey=write_key(directory / "next.key", make_key("p256")),
        extracerts=write_certificates(directory / "extra.pem", *device.intermediates),
        trusted=directory / "operator" / "root.pem",
        certout=directory / "new.pem",
        extra_args=("-subject", "/O=Example Operator/CN=enb-7"),
    )
    return result.returncode, result.fail_info


async def tell(config: Path, *certificates: Path) -> Result:
    """Run `ra-gateway revocation`."""
    options = [item for path in certificates for item in ("--certificate", str(path))]
    arguments = ["revocation", "--config", str(config), *options]
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments))


@pytest.mark.requirement(23)
async def test_openssl_says_who_is_revoked(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Through a gateway process: good is taken, revoked and unknown are refused; the command agrees."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    good, revoked, unknown = (vendor_pki.device(f"ENB-{number}") for number in range(3))
    moment = datetime.now(UTC) - timedelta(minutes=1)
    replace_file(tmp_path / "root.crl", make_crl(vendor_pki.root, this_update=moment))
    with openssl_ocsp(tmp_path, vendor_pki, good, revoked) as url:
        config.write_text(
            f'{config.read_text()}\n[vendors.acme.revocation]\nmode = "hard"\n'
            f'crl_paths = ["root.crl"]\nocsp_url = "{url}"\n'
        )
        gateway = GatewayProcess(config)
        await asyncio.to_thread(gateway.start)
        try:
            assert await enrol(tmp_path, gateway, good) == (0, frozenset())
            assert await enrol(tmp_path, gateway, revoked) == (1, frozenset({"signerNotTrusted"}))
            assert await enrol(tmp_path, gateway, unknown) == (1, frozenset({"systemUnavail"}))
            assert "does not know the certificate" in gateway.handled[-1]["detail"]
        finally:
            gateway.kill()

        paths = [tmp_path / f"{name}.pem" for name in ("good", "revoked")]
        for path, device in zip(paths, (good, revoked), strict=True):
            write_certificates(path, device.certificate, *device.intermediates)
        fine = await tell(config, paths[0])
        told = await tell(config, *paths)
    assert (fine.exit_code, told.exit_code) == (0, 1), fine.output
    lines = told.stdout.splitlines()
    assert lines[0].split("\t")[:5] == ["Domain", "Mode", "Kind", "Source", "State"]
    assert lines[1].split("\t")[:5] == ["operator", "off", "", "", "nobody is asked"]
    assert lines[2].split("\t")[:5] == [
        *("acme", "hard", "CRL", str(tmp_path / "root.crl"), "fresh")
    ]
    assert lines[3].split("\t")[:5] == ["acme", "hard", "OCSP", url, "fresh"]
    assert lines[4] == "CN=ENB-0,O=ACME Radio (acme): accepted"
    assert lines[5].startswith(
        "CN=ENB-1,O=ACME Radio (acme): refused: CN=ENB-1,O=ACME Radio (serial"
    )


# --- the bundled CA's own -------------------------------------------------------------------------------------


@asynccontextmanager
async def bundled(directory: Path) -> AsyncIterator[tuple[StatusCA, str]]:
    """Run the bundled CA's status listener; yields the CA, and the URL of its responder."""
    async with status_ca(directory, datetime.now(UTC)) as ca:
        publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings())
        responder = OCSPResponder([ocsp_signer(ca.issuing)], ca.ledger, ca.clock, OCSPSettings())
        root = cmp_certificate(ca.operator.root.certificate)
        status = CAStatus(root, [ca.issuing], publisher, responder)
        listener = StatusListener(status, host="127.0.0.1", port=0, clock=ca.clock)
        _, port = await listener.start()
        try:
            yield ca, f"http://127.0.0.1:{port}/ocsp"
        finally:
            await listener.drain(1)


@pytest.mark.requirement(23)
async def test_the_bundled_ca_answers_for_the_operators_domain(tmp_path: Path) -> None:
    """What it revoked is refused once the answer of before has ended; a certificate not of its own, too."""
    async with bundled(tmp_path) as (ca, url):
        replace_file(
            tmp_path / "root.crl", make_crl(ca.operator.root, this_update=ca.clock.now - HOUR)
        )
        domain = TrustDomain(
            "operator",
            DomainKind.operator,
            (cmp_certificate(ca.operator.root.certificate),),
            (ca.issuing.certificate,),
        )
        settings = RevocationSettings(
            crl_paths=(tmp_path / "root.crl",),
            ocsp=ClientSettings(url=url, max_cache_seconds=60),
        )
        revocation = Revocation([(domain, settings)], ca.clock)
        await revocation.fetch()
        device = await ca.issue("CN=enb1,O=Example Operator")
        path = domain.find_path(cmp_certificate(device.certificate), (), ca.clock.now)
        assert await revocation.check("operator", path, ca.clock.now) == ()
        await ca.revoke(device)
        assert await revocation.check("operator", path, ca.clock.now) == ()
        ca.clock.advance(seconds=61)
        with pytest.raises(SignerNotTrusted, match="its OCSP responder says so"):
            await revocation.check("operator", path, ca.clock.now)
        await revocation.stop()


async def test_an_issuing_ca_that_is_listed_needs_no_answer_of_its_own(tmp_path: Path) -> None:
    """Nobody has one; the responder that says so is well, and the same CA where it is not listed stays unknown."""
    async with bundled(tmp_path) as (ca, url):
        root = cmp_certificate(ca.operator.root.certificate)
        device = await ca.issue("CN=enb1,O=Example Operator")
        for intermediates in ((ca.issuing.certificate,), ()):
            domain = TrustDomain("operator", DomainKind.operator, (root,), intermediates)
            settings = RevocationSettings(ocsp=ClientSettings(url=url))
            revocation = Revocation([(domain, settings)], ca.clock)
            await revocation.fetch()
            bag = (ca.issuing.certificate,)
            path = domain.find_path(cmp_certificate(device.certificate), bag, ca.clock.now)
            try:
                if intermediates:
                    assert await revocation.check("operator", path, ca.clock.now) == ()
                    (state,) = revocation.states()
                    assert (state.fresh, state.last_error) == (True, "")
                else:
                    with pytest.raises(StatusUnavailable, match="UNAUTHORIZED"):
                        await revocation.check("operator", path, ca.clock.now)
            finally:
                await revocation.stop()
