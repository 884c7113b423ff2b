"""The same operations over every kind of CA: a gateway out of its configuration, and base stations over HTTP.

Where a CA cannot do something, that is asserted as well, with what the device and the operator are told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ra_gateway.clocks import now
from ra_gateway.cmp.bodies import cert_rep_message, rev_req_body
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage, body
from ra_gateway.cmp.protection import Credential
from ra_gateway.device.errors import CertificateRejected
from ra_gateway.device.values import DeviceIdentity
from ra_gateway.keys import KeySigner, pem
from ra_gateway.ra.agenda import UnconfirmedCertificates
from tests.support.answers import fail_names, status_of
from tests.support.ejbca import CLIENT_ALIAS, PROFILE, RA_ALIAS, EndEntityProfile, make_ejbca, serve
from tests.support.openssl import OpensslMockCA, openssl_cmp_async
from tests.support.pki import OperatorPKI, VendorPKI, make_key, write_certificates, write_key
from tests.support.processes import CAProcess
from tests.support.requests import csr, details
from tests.support.rest_cas import fake_api, server_tls, serving
from tests.support.setups import edit, http_upstream, let_vendors, make_setup, set_upstream
from tests.support.sites import EVERY_TYPE, NAME, SUBJECT, Site, configuration, served

REQUESTS: Final = (BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr)

KINDS: Final = (
    "bundled",
    "bundled-http",
    "ejbca",
    "ejbca-client",
    "openssl-mock",
    "rest",
    "step_ca",
    "vault",
)

NEEDS_PKCS10: Final = ("step_ca", "vault")
"""They sign PKCS#10 requests and nothing else."""


# --- a gateway and what stands behind it ----------------------------------------------------------------------


Open = Callable[[str], Any]


@pytest.fixture
def opened(vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path) -> Open:
    """Opens a site with one kind of CA behind it."""

    @asynccontextmanager
    async def open_site(kind: str) -> AsyncIterator[Site]:
        opener = {
            "bundled": bundled,
            "bundled-http": bundled,
            "ejbca": ejbca,
            "ejbca-client": ejbca,
            "openssl-mock": openssl_mock,
            "openssl-mock-refusing": openssl_mock,
        }.get(kind, rest)
        async with opener(kind, tmp_path, vendor_pki, operator_pki) as site:
            yield site

    return open_site


@asynccontextmanager
async def bundled(
    kind: str, directory: Path, vendor: VendorPKI, operator: OperatorPKI
) -> AsyncIterator[Site]:
    """The CA that comes with the gateway, in its process or in one of its own."""
    path = make_setup(directory / "site", vendors={"acme": vendor})
    edit(path, 'upstream = "bundled"', f'upstream = "bundled"\nbody_types = {EVERY_TYPE}')
    let_vendors(path, "ir", "cr", "p10cr")
    ledger = directory / "site/ca/ledger.sqlite"

    def revoked() -> set[int]:
        with closing(sqlite3.connect(ledger)) as connection:
            rows = connection.execute(
                "SELECT serial FROM certificates WHERE revoked_at IS NOT NULL"
            ).fetchall()
        return {int(serial, 16) for (serial,) in rows}

    root_path = directory / "site/operator/root.pem"

    def refuse() -> Mapping[str, Any]:
        return {"san": tuple(f"dns:enb-{number}.example.net" for number in range(17))}

    if kind == "bundled":
        set_upstream(path, 'kind = "bundled"\ndialect = "bundled"\n')
        async with served(path, vendor, root_path, revoked=revoked, refuse=refuse) as site:
            yield site
        return
    with CAProcess(path) as ca:

        async def take_away() -> None:
            ca.kill()

        set_upstream(path, http_upstream(ca.url, dialect="bundled"))
        async with served(
            path, vendor, root_path, revoked=revoked, refuse=refuse, take_away=take_away
        ) as site:
            yield site


@asynccontextmanager
async def ejbca(
    kind: str, directory: Path, vendor: VendorPKI, operator: OperatorPKI
) -> AsyncIterator[Site]:
    """What behaves as EJBCA does, its alias in RA mode; for kur perhaps the one in client mode."""
    installation = make_ejbca(operator)

    async def take_away() -> None:
        installation.unavailable = True

    def refuse() -> Mapping[str, Any]:
        installation.end_entity_profiles[PROFILE] = EndEntityProfile(7, {"DNSNAME": 2})
        return {}

    async with serve(installation) as base_url:
        upstreams = [("main", RA_ALIAS, "ejbca-ra")]
        route = ""
        if kind == "ejbca-client":
            upstreams.append(("client", CLIENT_ALIAS, "ejbca-client"))
            route = '[[endpoints.ran.routes]]\nbody_types = ["kur"]\nupstream = "client"'
        tables = [
            f'[upstreams.{name}]\nkind = "cmp_http"\nurl = "{base_url}"\npath = "{alias}"\n'
            f'dialect = "{dialect}"\nca_certificate_paths = ["issuing.pem"]\n'
            for name, alias, dialect in upstreams
        ]
        path = configuration(directory, vendor, operator, "\n".join(tables), route)
        async with served(
            path,
            vendor,
            directory / "root.pem",
            revoked=lambda: {item.certificate.serial_number for item in installation.revoked},
            refuse=refuse,
            take_away=take_away,
        ) as site:
            yield site


@asynccontextmanager
async def openssl_mock(
    kind: str, directory: Path, vendor: VendorPKI, operator: OperatorPKI
) -> AsyncIterator[Site]:
    """`openssl cmp -port`, which has one certificate, for one key."""
    key = make_key("p256")
    certificate = operator.issuing.issue(SUBJECT, key, key_usage=["digitalSignature"])
    with OpensslMockCA(
        directory,
        signer=operator.cmp_signer,
        trusted=[operator.root.certificate],
        response_certificate=certificate.certificate,
        response_extra_certs=[operator.issuing.certificate],
        # PKIStatus rejection, and bit 9: badPOP.
        extra_args=("-pkistatus", "2", "-failure", "9") if kind.endswith("refusing") else (),
    ) as mock:

        async def take_away() -> None:
            mock.__exit__(None, None, None)

        upstream = http_upstream(mock.url, dialect="openssl-mock", deadline_seconds=5)
        path = configuration(directory, vendor, operator, f"[upstreams.main]\n{upstream}")
        async with served(
            path,
            vendor,
            directory / "root.pem",
            revoked=set,
            refuse=dict,
            take_away=take_away,
            device_key=key,
            pause_seconds=0.2,
        ) as site:
            yield site


@asynccontextmanager
async def rest(
    kind: str, directory: Path, vendor: VendorPKI, operator: OperatorPKI
) -> AsyncIterator[Site]:
    """CAs that speak no CMP."""
    key = ec.generate_private_key(ec.SECP256R1())
    api = fake_api(kind, operator, now, key)
    async with serving(api, server_tls(operator, directory)):
        lines = {
            "step_ca": f'root_path = "root.pem"\nprovisioner = "{api.provisioner if kind == "step_ca" else ""}"\n'
            'provisioner_key_path = "secret"\n',
            "vault": 'role = "ran"\ntoken_path = "secret"\ntls_ca_path = "root.pem"\n',
            "rest": f'revoke_url = "{api.url}/revoke"\ntoken_path = "secret"\ntls_ca_path = "root.pem"\n',
        }[kind]
        url = f"{api.url}/certify" if kind == "rest" else api.url
        secret = directory / "secret"
        if kind == "step_ca":
            secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        else:
            secret.write_text(api.token)
        secret.chmod(0o600)

        async def busy(request: web.Request) -> web.StreamResponse:
            return web.Response(status=503, text="<html>busy</html>", content_type="text/html")

        async def forbid(request: web.Request) -> web.StreamResponse:
            return web.json_response({"status": 403, "message": "policy of this"}, status=403)

        async def take_away() -> None:
            api.instead = busy

        def refuse() -> Mapping[str, Any]:
            if kind == "step_ca":
                api.instead = forbid
            return {"subject": "CN=forbidden"}

        path = configuration(
            directory,
            vendor,
            operator,
            f'[upstreams.main]\nkind = "{kind}"\nurl = "{url}"\n{lines}',
        )
        async with served(
            path,
            vendor,
            directory / "root.pem",
            revoked=lambda: set(api.revoked),
            refuse=refuse,
            take_away=take_away,
        ) as site:
            yield site


# --- what works -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(73, 86, 88, 107)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_a_base_station_enrols(opened: Open, kind: str, body_type: BodyType) -> None:
    """From request to pkiConf; a CA that signs PKCS#10 alone says so."""
    async with opened(kind) as site:
        enrollment = site.enrollment(site.identity(), body_type)
        if kind in NEEDS_PKCS10:
            answer = await site.ask(await enrollment.request())
            assert (answer.body_type, fail_names(answer)) == (
                CERT_RESPONSE_TO[body_type],
                ["badRequest"],
            )
            assert "PKCS#10" in site.event.detail
            return
        done = await site.run(enrollment)
        assert done.certificate.subject == SUBJECT
        assert site.event.outcome == "confirmed"


@pytest.mark.requirement(67, 75, 77)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_base_station_renews(opened: Open, kind: str) -> None:
    """kur and certConf, under the names of the old certificate."""
    if kind in NEEDS_PKCS10:
        return await no_key_update(opened, kind)
    async with opened(kind) as site:
        enrolled = await site.enrolled()
        enrollment = site.enrollment(enrolled.identity, BodyType.kur)
        done = await site.run(enrollment)
        assert done.certificate.subject == enrolled.certificate.subject
        assert (done.certificate == enrolled.certificate) is (kind == "openssl-mock")
        expected = {"ejbca-client": "client", "bundled": "bundled", "bundled-http": "bundled"}
        assert site.event.upstream == expected.get(kind, "main")


async def no_key_update(opened: Open, kind: str) -> None:
    """A kur carries no PKCS#10."""
    async with opened(kind) as site:
        device = await by_pkcs10(site)
        answer = await site.ask(await site.enrollment(device, BodyType.kur).request())
        assert (answer.body_type, fail_names(answer)) == (BodyType.kup, ["badRequest"])


async def by_pkcs10(site: Site) -> DeviceIdentity:
    """A base station that has enrolled with a PKCS#10."""
    key = site.device_key or make_key("p256")
    request = csr(key, SUBJECT, NAME)
    credential = site.device()
    answer = await site.ask(await site.message(credential, body(BodyType.p10cr, request)))
    assert status_of(answer).issued, site.event.detail
    assert (await site.confirm(credential, answer)).body_type is BodyType.pkiconf
    (response,) = cert_rep_message(answer.body_content).responses
    certificate = Certificate.from_der(response.certificate_der or b"")
    chain = tuple(
        item
        for item in map(Certificate.from_der, answer.extra_certs)
        if item.subject_der == certificate.issuer_der
    )
    return site.identity(Credential(certificate, chain, KeySigner(key)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("takes", [True, False])
async def test_a_pkcs10(opened: Open, kind: str, takes: bool) -> None:
    """p10cr and certConf, whether the device takes the certificate or not."""
    async with opened(kind) as site:
        credential = site.device()
        answer = await site.p10cr(credential)
        assert status_of(answer).issued, site.event.detail
        (response,) = cert_rep_message(answer.body_content).responses
        certificate = Certificate.from_der(response.certificate_der or b"")
        confirmed = await site.confirm(credential, answer, takes=takes)
        assert confirmed.body_type is BodyType.pkiconf, site.event.detail
        await came_to_nothing(site, kind, certificate, taken=takes)


@pytest.mark.requirement(107, 111)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NEEDS_PKCS10])
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_a_device_rejects_its_certificate(
    opened: Open, kind: str, body_type: BodyType
) -> None:
    """The CA has revoked it in the end, however it hears of that."""
    async with opened(kind) as site:
        identity = site.identity() if body_type is BodyType.ir else (await site.enrolled()).identity
        enrollment = site.enrollment(identity, body_type, takes=False)
        with pytest.raises(CertificateRejected):
            await site.run(enrollment)
        assert site.event.outcome == "rejected"
        await withdrawn(site, kind, int(site.event.serial_number, 16), body_type)


async def withdrawn(site: Site, kind: str, serial_number: int, body_type: BodyType) -> None:
    await UnconfirmedCertificates(site.application.services).work()
    told = [event.outcome for event in site.events][-1]
    if kind == "openssl-mock":
        assert site.revoked() == set()  # it keeps no record, and was told by certConf
    elif kind == "ejbca-client" and body_type is BodyType.kur:
        # That alias lets devices alone revoke; a person is asked.
        assert (site.revoked(), told) == (set(), "unconfirmed")
    else:
        assert site.revoked() == {serial_number}


async def came_to_nothing(site: Site, kind: str, certificate: Certificate, *, taken: bool) -> None:
    if taken:
        await UnconfirmedCertificates(site.application.services).work()
        assert site.revoked() == set()
    else:
        await withdrawn(site, kind, certificate.serial_number, BodyType.p10cr)


@pytest.mark.requirement(130)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_base_station_has_its_certificate_revoked(opened: Open, kind: str) -> None:
    """rr, under the certificate that it is about."""
    async with opened(kind) as site:
        if kind in NEEDS_PKCS10:
            identity = await by_pkcs10(site)
        else:
            identity = (await site.enrolled()).identity
        certificate = identity.signing.certificate
        der = await site.message(identity.credential, rev_req_body(details(certificate)))
        answer = await site.ask(der)
        assert answer.body_type is BodyType.rp, site.event.detail
        assert status_of(answer).status in (PKIStatus.accepted, PKIStatus.grantedWithMods)
        assert site.event.outcome == "revoked"
        assert site.revoked() == (set() if kind == "openssl-mock" else {certificate.serial_number})


# --- what fails -----------------------------------------------------------------------------------------------


async def request_for(site: Site, kind: str, **options: Any) -> bytes:
    """A request that this CA takes: an ir, or a p10cr."""
    if kind in NEEDS_PKCS10:
        subject = options.get("subject", SUBJECT)
        request = csr(make_key("p256"), subject, NAME)
        return await site.message(site.device(), body(BodyType.p10cr, request))
    return await site.enrollment(site.identity(), BodyType.ir, **options).request()


REFUSALS = {
    "bundled": ("badCertTemplate", "template is not acceptable"),
    "bundled-http": ("badCertTemplate", "template is not acceptable"),
    "ejbca": ("incorrectData", "wrong number of DNSNAME"),
    "openssl-mock": ("badPOP", "rejection badPOP"),
    "rest": ("badRequest", "subject is not allowed"),
    "step_ca": ("notAuthorized", "policy of this"),
    "vault": ("badRequest", "not allowed by this role"),
}
"""failInfo, and what the event says."""


@pytest.mark.requirement(89)
@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refusal_of_the_ca_s_policy(opened: Open, kind: str) -> None:
    """A rejection under the RA's signature, with the CA's failInfo; its words are in the event."""
    fail_info, told = REFUSALS[kind]
    async with opened("openssl-mock-refusing" if kind == "openssl-mock" else kind) as site:
        der = await request_for(site, kind, **site.refuse())
        answer = await site.ask(der)
        assert answer.body_type is CERT_RESPONSE_TO[PKIMessage.from_der(der).body_type]
        assert fail_names(answer) == [fail_info]
        assert (site.event.outcome, site.event.rule) == ("refused", "R89")
        assert told in site.event.detail


@pytest.mark.requirement(90)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bundled"])
async def test_a_ca_that_is_away(opened: Open, kind: str) -> None:
    """systemUnavail, signed; the one in the gateway's process is never away from it."""
    async with opened(kind) as site:
        await site.take_away()
        answer = await site.ask(await request_for(site, kind))
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemUnavail"]), (
            site.event.detail
        )
        assert (site.event.outcome, site.event.rule) == ("failed", "R90")


@pytest.mark.requirement(54)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_request_reaches_no_ca(opened: Open, kind: str) -> None:
    """A proof of possession by another key is refused before anybody is asked."""
    async with opened(kind) as site:
        message = PKIMessage.from_der(await request_for(site, kind))
        body_der = message.body_der[:-1] + bytes((message.body_der[-1] ^ 1,))
        answer = await site.ask(await site.message(site.device(), body_der))
        assert fail_names(answer) == ["badPOP"]
        assert site.event.outcome == "refused"


# --- what only some can do ------------------------------------------------------------------------------------


@pytest.mark.requirement(86)
@pytest.mark.parametrize("body_type", REQUESTS)
async def test_the_mock_server_certifies_one_key(opened: Open, body_type: BodyType) -> None:
    """Whoever has another key gets systemFailure, and the operator is told why."""
    async with opened("openssl-mock") as site:
        identity = site.identity()
        if body_type is BodyType.kur:
            identity = (await site.enrolled()).identity
        site.device_key = None
        if body_type is BodyType.p10cr:
            answer = await site.p10cr(identity.credential)
        else:
            answer = await site.ask(await site.enrollment(identity, body_type).request())
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
        assert "certified another key than the requested one" in site.event.detail
        assert site.event.rule == "R86"


async def test_a_kur_signed_by_the_device_needs_the_client_alias(opened: Open) -> None:
    """EJBCA in client mode takes a kur as it came, and gets nothing else; the rest goes to the RA's alias."""
    async with opened("ejbca-client") as site:
        enrolled = await site.enrolled()
        await site.run(site.enrollment(enrolled.identity, BodyType.kur))
        told = [(event.body_type, event.upstream) for event in site.events]
        assert told == [
            ("ir", "main"),
            ("certConf", "main"),
            ("kur", "client"),
            ("certConf", "client"),
        ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NEEDS_PKCS10])
async def test_openssl_enrols(
    opened: Open, kind: str, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Debian's `openssl cmp` does ir and rr, whatever CA is behind the gateway."""
    async with opened(kind) as site:
        root = tmp_path / "trusted.pem"
        root.write_text(pem(site.root.der))
        cert, key = vendor_pki.device("ENB-9").write(tmp_path, "own")
        sub = write_certificates(tmp_path / "sub.pem", vendor_pki.sub.certificate)
        new_key = write_key(tmp_path / "new.key", site.device_key or make_key("p256"))
        usual: dict[str, Any] = {
            "server": site.url.split("/")[2],
            "trusted": root,
            "certout": tmp_path / "new.pem",
        }
        enrolled = await openssl_cmp_async(
            "ir",
            **usual,
            cert=cert,
            key=key,
            extracerts=sub,
            newkey=new_key,
            subject=f"/CN={NAME}",
            extra_args=("-extracertsout", str(tmp_path / "received.pem")),
        )
        enrolled.check()
        revoked = await openssl_cmp_async(
            "rr",
            **usual,
            cert=tmp_path / "new.pem",
            key=new_key,
            extracerts=tmp_path / "received.pem",
            extra_args=("-oldcert", str(tmp_path / "new.pem"), "-revreason", "1"),
        )
        revoked.check()
        assert [event.outcome for event in site.events if event.endpoint == "ran"] == [
            "issued",
            "confirmed",
            "revoked",
        ]


@pytest.mark.requirement(65, 107)
@pytest.mark.parametrize("kind", ["bundled-http", "ejbca", "step_ca", "vault"])
async def test_openssl_enrols_by_pkcs10(
    opened: Open, kind: str, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """openssl knows certReqId -1 alone, whether the CA says that (bundled) or 0 (EJBCA)."""
    async with opened(kind) as site:
        root = tmp_path / "trusted.pem"
        root.write_text(pem(site.root.der))
        cert, key = vendor_pki.device("ENB-9").write(tmp_path, "own")
        new_key = site.device_key or make_key("p256")
        asked = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string(f"CN={NAME}"))
        asked = asked.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False
        )
        signed = asked.sign(new_key, hashes.SHA256())
        (tmp_path / "csr.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        enrolled = await openssl_cmp_async(
            "p10cr",
            server=site.url.split("/")[2],
            trusted=root,
            certout=tmp_path / "new.pem",
            cert=cert,
            key=key,
            extracerts=write_certificates(tmp_path / "sub.pem", vendor_pki.sub.certificate),
            newkey=write_key(tmp_path / "new.key", new_key),
            extra_args=("-csr", str(tmp_path / "csr.pem")),
        )
        enrolled.check()
        outcomes = [event.outcome for event in site.events if event.endpoint == "ran"]
        assert outcomes == ["issued", "confirmed"]
