"""CAs with REST APIs behind the whole gateway: step-ca, Vault, bare keys, and a plug-in out of the documentation."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from ra_gateway.app.application import Application
from ra_gateway.clocks import now
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_rep_message,
    gen_msg_body,
)
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.reading import load, parse
from ra_gateway.errors import ConfigError, UpstreamBroken, UpstreamUnavailable
from ra_gateway.events import RequestHandled
from ra_gateway.keys import pem
from ra_gateway.ra.agenda import UnconfirmedCertificates
from ra_gateway.ra.general_messages import Information
from ra_gateway.ra.settings import CertConf, Informing
from ra_gateway.upstream.kinds import RestUpstream, VaultUpstream
from ra_gateway.upstream.plugins import UpstreamContext, make_plugin
from ra_gateway.upstream.rest import RestClient
from ra_gateway.upstream.signing import (
    CertificateSigner,
    SignedCertificate,
    SigningCA,
    SigningRequest,
    not_offered,
)
from ra_gateway.upstream.step_ca import Provisioner, StepCASigner
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_answers
from tests.support.chain import local_ra, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import ManualClock, World, handled_only
from tests.support.pki import OperatorPKI, VendorPKI, make_key, other_operator, write_certificates
from tests.support.requests import confirmation_body, csr, p10cr, rr
from tests.support.rest_cas import (
    Document,
    FakeKeyAPI,
    FakeStepCA,
    FakeVault,
    fake_api,
    server_tls,
    serving,
)

ALL = frozenset(
    {BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr, BodyType.rr, BodyType.genm}
)
NAME = "enb-1.ran.example.net"
DOCUMENT = Path(__file__).parents[2] / "docs/upstream-plugins.md"


class Site:
    """A gateway whose only upstream signs by a REST API."""

    def __init__(self, world: World, ca: SigningCA, api: Any) -> None:
        self.world, self.ca, self.api = world, ca, api

    async def ask(self, der: bytes) -> PKIMessage:
        """Send a message; the answer is a signed one, whatever it says."""
        answer = await self.world.ask(der)
        assert answer.protection is not None
        return answer

    async def p10cr(self, key: Any = None, *names: str) -> bytes:
        """A p10cr of a base station as it left the factory."""
        request = csr(key or make_key("p256"), requests.SUBJECT, *(names or (NAME,)))
        return await p10cr(self.world, self.world.device(), request)

    async def ir(self, *san: str, subject: str = requests.SUBJECT) -> bytes:
        """An ir of a base station as it left the factory."""
        key = make_key("p256")
        asked = requests.template(key, subject, san)
        return await requests.request(self.world, cmp_credential(self.world.device()), key, asked)

    async def served(self, der: bytes) -> PKIMessage:
        """Send a request that is answered with a certificate."""
        answer = await self.ask(der)
        told = f"{answer.body_type.name} {status_of(answer)}: {self.detail}"
        assert status_of(answer).issued, told
        assert_answers(self.world, PKIMessage.from_der(der), answer)
        return answer

    @property
    def detail(self) -> str:
        """What the operator is told of the last message."""
        return self.world.events[-1].detail


def signing_world(
    vendor: VendorPKI, operator: OperatorPKI, signer: CertificateSigner, **settings: Any
) -> tuple[World, SigningCA]:
    """A world with a `SigningCA` as upstream."""
    clock = ManualClock()
    ca = SigningCA(
        "signing",
        signer,
        authorities=lambda: (cmp_certificate(operator.ra.certificate),),
        operator=operator_domain(operator),
        clock=clock,
        random_octets=lambda count: bytes(range(count)),
        **settings.pop("ca", {}),
    )
    world = World.make(
        vendor,
        operator,
        clock=clock,
        endpoint={"body_types": ALL, **settings.pop("endpoint", {})},
        upstream={
            "name": "signing",
            "core": ca,
            "pinned": (ca.certificate,),
            "certconf": CertConf.local,
            "deadline_seconds": 3.0,
            **settings,
        },
    )
    return world, ca


def operator_domain(operator: OperatorPKI) -> TrustDomain:
    return TrustDomain(
        "operator",
        DomainKind.operator,
        (cmp_certificate(operator.root.certificate),),
        (cmp_certificate(operator.issuing.certificate),),
    )


Open = Callable[..., Any]


@pytest.fixture
def token_path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("none\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def opened(vendor_pki: VendorPKI, operator_pki: OperatorPKI, token_path: Path) -> Open:
    """Opens a site with one of the three kinds of API."""

    @asynccontextmanager
    async def open_site(kind: str, **settings: Any) -> AsyncIterator[Site]:
        provisioner_key = ec.generate_private_key(ec.SECP256R1())
        clock = ManualClock()
        api: Any
        if kind == "step_ca":
            api = FakeStepCA(operator_pki, clock, provisioner_key.public_key())
        else:
            api = (FakeVault if kind == "vault" else FakeKeyAPI)(operator_pki, clock)
            token_path.write_text(f"{api.token}\n")
        async with serving(api):
            signer: CertificateSigner
            if kind == "step_ca":
                provisioner = Provisioner(
                    settings.pop("provisioner", api.provisioner),
                    settings.pop("key", provisioner_key),
                    setting="upstreams.step.provisioner_key_path",
                    root=cmp_certificate(operator_pki.root.certificate),
                    clock=clock,
                )
                signer = StepCASigner(RestClient(api.url), provisioner)
            elif kind == "vault":
                table = {"url": api.url, "role": "ran", **settings.pop("vault", {})}
                signer = VaultUpstream(kind="vault", token_path=token_path, **table).open(
                    context("vault")
                )
            else:
                table = {
                    "url": f"{api.url}/certify",
                    "revoke_url": f"{api.url}/revoke",
                    "token_path": token_path,
                    **settings.pop("rest", {}),
                }
                signer = RestUpstream(kind="rest", **table).open(context("rest"))
            world, ca = signing_world(vendor_pki, operator_pki, signer, **settings)
            api.clock = world.clock
            clock.now = world.clock.now
            try:
                yield Site(world, ca, api)
            finally:
                await ca.close()

    return open_site


KINDS = ["step_ca", "vault", "rest"]


# --- what works -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(73, 86, 88, 107)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_pkcs10_is_certified_and_confirmed(opened: Open, kind: str) -> None:
    """The API gets the PKCS#10 as the device signed it; the RA answers certConf, which nobody else sees."""
    async with opened(kind) as site:
        world, key = site.world, make_key("p256")
        device = world.device()
        request = csr(key, requests.SUBJECT, NAME)
        der = await p10cr(world, device, request)
        answer = await site.served(der)
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.cert_req_id == -1
        (issued,) = site.api.issued
        assert response.certificate_der == issued.der
        assert issued.spki_der == requests.spki(key)
        root = cmp_certificate(world.operator.root.certificate).der
        assert root in answer.extra_certs
        assert site.ca.certificate.der not in answer.extra_certs
        cert_conf = await follow(device, answer, confirmation_body(answer, -1), now=world.clock())
        assert (await world.ask(cert_conf)).body_type is BodyType.pkiconf
        assert [event.outcome for event in world.events] == ["issued", "confirmed"]
        assert len(site.api.asked) == 1
        assert await world.post(der) == answer.der


async def test_a_token_of_step_ca_is_for_one_request(opened: Open) -> None:
    """It names audience, root, names and an identifier that a repeat of the request would have again."""
    async with opened("step_ca") as site:
        await site.served(await site.p10cr())
        (claims,) = site.api.tokens
        root = cmp_certificate(site.world.operator.root.certificate)
        assert claims["aud"] == f"{site.api.url}/1.0/sign"
        assert claims["sha"] == root.fingerprint.hex()
        assert (claims["sub"], claims["sans"]) == (NAME, [NAME])
        assert claims["exp"] - claims["iat"] == 60
        up = site.world.events[-1]
        assert len(claims["jti"]) == 64
        assert up.outcome == "issued"


async def test_names_in_a_token(opened: Open) -> None:
    """Without a common name the first of the other names stands for the subject."""
    async with opened("step_ca") as site:
        request = csr(make_key("p256"), "O=Example", NAME)
        await site.served(await p10cr(site.world, site.world.device(), request))
        assert site.api.tokens[0]["sub"] == NAME


async def test_names_that_no_token_can_have(opened: Open) -> None:
    """No name at all, or one that is a directory name: badCertTemplate, and nothing is sent."""
    async with opened("step_ca") as site:
        world, key = site.world, make_key("p256")
        builder = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string("O=Example"))
        name = x509.DirectoryName(x509.Name.from_rfc4514_string("CN=enb"))
        named = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        for made in (builder, named):
            request = made.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
            answer = await site.ask(await p10cr(world, world.device(), request))
            assert (answer.body_type, fail_names(answer)) == (BodyType.cp, ["badCertTemplate"])
        assert site.api.asked == []


async def test_the_same_request_is_signed_once(opened: Open) -> None:
    """Were a request sent to step-ca twice, its second token would not be taken."""
    async with opened("step_ca") as site:
        sent: list[bytes] = []
        exchange = site.ca.exchange

        async def recording(der: bytes, **options: Any) -> bytes:
            sent.append(der)
            answer: bytes = await exchange(der, **options)
            return answer

        site.ca.exchange = recording
        await site.served(await site.p10cr())
        with pytest.raises(UpstreamBroken, match="HTTP 401"):
            await exchange(sent[0], path="", deadline_seconds=3)
        assert len(site.api.issued) == 1


@pytest.mark.parametrize("verbatim", [False, True])
async def test_vault_signs_under_a_role_or_verbatim(opened: Open, verbatim: bool) -> None:
    """The path says which, and the subject shows it: only verbatim keeps the organisation."""
    async with opened(
        "vault", vault={"verbatim": verbatim}, expected_subject="requested" if verbatim else "any"
    ) as site:
        request = csr(make_key("p256"), f"CN={NAME},O=Example")
        await site.ask(await p10cr(site.world, site.world.device(), request))
        ((path, document),) = site.api.asked
        assert path == f"/v1/pki/{'sign-verbatim' if verbatim else 'sign'}/ran"
        assert set(document) == {"csr", "format"}
        assert site.world.events[-1].outcome == "issued"
        (issued,) = site.api.issued
        assert ("Example" in issued.subject) is verbatim


async def test_a_renewed_token_is_used_at_once(opened: Open, token_path: Path) -> None:
    """Vault's token is read from its file for each request, and its namespace is named."""
    async with opened("vault", vault={"namespace": "ran/"}) as site:
        site.api.namespace = "ran/"
        await site.served(await site.p10cr())
        site.api.token = "hvs.renewed"
        assert fail_names(await site.ask(await site.p10cr())) == ["systemFailure"]
        token_path.write_text("hvs.renewed")
        await site.served(await site.p10cr())


@pytest.mark.requirement(73, 86, 88)
async def test_a_bare_key_is_certified_for_ir(opened: Open) -> None:
    """The API is sent key, subject and names; a request without PKCS#10 says nothing of one."""
    async with opened("rest") as site:
        await site.served(await site.ir(f"dns:{NAME}", "ip:192.0.2.1"))
        ((path, document),) = site.api.asked
        assert path == "/certify"
        assert document.keys() == {"publicKey", "subject", "subjectAltNames", "requestId"}
        assert document["subject"] == requests.SUBJECT
        assert document["subjectAltNames"] == [f"dns:{NAME}", "ip:192.0.2.1"]


@pytest.mark.requirement(69, 73)
async def test_a_bare_key_is_certified_for_kur(opened: Open) -> None:
    """The RA has checked the old certificate and set the names; the API certifies the new key."""
    async with opened("rest") as site:
        world = site.world
        device, key = cmp_credential(world.operator.device(NAME)), make_key("p256")
        asked = requests.template(key, None)
        der = await requests.request(world, device, key, asked, body_type=BodyType.kur)
        assert (await site.served(der)).body_type is BodyType.kup
        ((_, document),) = site.api.asked
        assert NAME in document["subject"]
        assert site.api.issued[0].spki_der == requests.spki(key)


async def test_names_of_members_are_settings(opened: Open) -> None:
    """A member without a name is left out."""
    fields = {"public_key_field": "key", "request_id_field": "", "csr_field": ""}
    async with opened("rest", rest=fields) as site:
        site.api.change = lambda document: document
        await site.ask(await site.p10cr())
        ((_, document),) = site.api.asked
        assert document.keys() == {"key", "subject", "subjectAltNames"}


@pytest.mark.requirement(129, 131)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_has_its_certificate_revoked(opened: Open, kind: str) -> None:
    """rr ends at the API's revoke, with the reason where it has any."""
    async with opened(kind) as site:
        world = site.world
        device = world.operator.device(NAME)
        own = cmp_certificate(device.certificate)
        site.api.issued.append(own)
        answer = await site.ask(await rr(world, device))
        assert answer.body_type is BodyType.rp
        done = ("The certificate is revoked.",)
        assert status_of(answer) == PKIStatusInfo(PKIStatus.accepted, done)
        assert site.api.revoked == {own.serial_number: 0 if kind == "vault" else 1}
        assert world.events[-1].outcome == "revoked"


# --- what does not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["step_ca", "vault"])
async def test_an_api_for_pkcs10_cannot_serve_ir(opened: Open, kind: str) -> None:
    """badRequest in an ip, and a sentence that says what to use; the API is not asked."""
    async with opened(kind) as site:
        answer = await site.ask(await site.ir())
        assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badRequest"])
        assert "use p10cr" in site.detail
        assert site.api.asked == []


async def test_genm_is_refused(opened: Open) -> None:
    """No API answers questions: badRequest in an error, where genm is forwarded at all."""
    information = Information(ways={}, others=Informing.forward)
    async with opened("rest", endpoint={"information": information}) as site:
        body_der = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
        device = cmp_credential(site.world.device())
        answer = await site.ask(await requests.message(site.world, device, body_der))
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])
        assert site.api.asked == []


async def test_an_api_without_revocation(opened: Open) -> None:
    """badRequest in an rp."""
    async with opened("rest", rest={"revoke_url": None}) as site:
        answer = await site.ask(await rr(site.world, site.world.operator.device(NAME)))
        assert (answer.body_type, fail_names(answer)) == (BodyType.rp, ["badRequest"])


@pytest.mark.requirement(129)
@pytest.mark.parametrize("kind", KINDS)
async def test_who_asks_for_the_release_from_hold_has_nothing_revoked(
    opened: Open, operator_pki: OperatorPKI, kind: str
) -> None:
    """An RA, since no device may; step-ca and Vault know no other deed than to revoke for good: badRequest."""
    ra = local_ra(operator_pki)
    known = registered(operator_pki, ra)
    async with opened(kind, endpoint={"registration_authorities": known}) as site:
        held = cmp_certificate(operator_pki.device(NAME).certificate)
        site.api.issued.append(held)
        answer = await site.ask(await rr(site.world, ra, requests.details(held, reason=8)))
        assert answer.body_type is BodyType.rp
        if kind == "rest":
            done = ("The certificate is released from hold.",)
            assert status_of(answer) == PKIStatusInfo(PKIStatus.accepted, done)
            assert site.api.revoked == {held.serial_number: 8}
        else:
            assert fail_names(answer) == ["badRequest"]
            assert "hold" in site.detail
            assert (site.api.asked, site.api.revoked) == ([], {})


async def test_a_certificate_of_another_ca_is_not_revoked(
    opened: Open, operator_pki: OperatorPKI
) -> None:
    """APIs revoke by serial number: what another CA issued never reaches them."""
    stranger = cmp_certificate(other_operator().issuing.certificate)
    async with opened("vault", ca={"issuers": (stranger,)}) as site:
        answer = await site.ask(await rr(site.world, site.world.operator.device(NAME)))
        assert (answer.body_type, fail_names(answer)) == (BodyType.rp, ["badCertId"])
        assert site.api.asked == []


async def test_vault_does_not_know_a_certificate(opened: Open) -> None:
    """badCertId in an rp."""
    async with opened("vault") as site:
        answer = await site.ask(await rr(site.world, site.world.operator.device(NAME)))
        assert (answer.body_type, fail_names(answer)) == (BodyType.rp, ["badCertId"])


async def test_vault_only_queues_a_revocation(opened: Open) -> None:
    """The device is not told that it is done."""
    async with opened("vault") as site:
        device = site.world.operator.device(NAME)
        site.api.issued.append(cmp_certificate(device.certificate))
        site.api.change = lambda document: {"data": {"state": "pending"}}
        answer = await site.ask(await rr(site.world, device))
        assert fail_names(answer) == ["systemUnavail"]


async def test_step_ca_revoked_before(opened: Open) -> None:
    """certRevoked in an rp."""
    async with opened("step_ca") as site:
        device = site.world.operator.device(NAME)
        site.api.revoke(cmp_certificate(device.certificate).serial_number, 1)
        answer = await site.ask(await rr(site.world, device))
        assert (answer.body_type, fail_names(answer)) == (BodyType.rp, ["certRevoked"])


# --- refusals of the API --------------------------------------------------------------------------------------


@pytest.mark.requirement(89, 112)
async def test_vault_refuses_a_name(opened: Open) -> None:
    """400 is a rejection; what Vault says reaches the operator."""
    async with opened("vault") as site:
        request = csr(make_key("p256"), "CN=enb.example.com")
        answer = await site.ask(await p10cr(site.world, site.world.device(), request))
        assert (answer.body_type, fail_names(answer)) == (BodyType.cp, ["badRequest"])
        assert "not allowed by this role" in site.detail


@pytest.mark.requirement(89, 112)
async def test_a_bare_key_api_refuses_a_subject(opened: Open) -> None:
    """422 is a rejection; what the API says is one line."""
    async with opened("rest") as site:
        answer = await site.ask(await site.ir(subject="CN=forbidden.example.net"))
        assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badRequest"])
        assert "subject is not allowed" in site.detail


@pytest.mark.requirement(89, 112)
async def test_step_ca_forbids_a_name(opened: Open) -> None:
    """403 of step-ca is about the request: notAuthorized."""

    async def forbid(request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": 403, "message": "dns not allowed"}, status=403)

    async with opened("step_ca") as site:
        site.api.instead = forbid
        answer = await site.ask(await site.p10cr())
        assert (answer.body_type, fail_names(answer)) == (BodyType.cp, ["notAuthorized"])
        assert "dns not allowed" in site.detail


@pytest.mark.parametrize(
    "kind, settings, said",
    [
        ("step_ca", {"provisioner": "nobody"}, "HTTP 401"),
        ("step_ca", {"key": make_key("p256")}, "HTTP 401"),
        ("vault", {"vault": {"role": "unknown"}}, "unknown role"),
        ("vault", {"vault": {"mount": "elsewhere"}}, "no handler for route"),
        ("vault", {"vault": {"namespace": "other"}}, "permission denied"),
    ],
)
async def test_what_is_wrong_with_our_settings_is_not_told_as_the_devices_fault(
    opened: Open, kind: str, settings: Any, said: str
) -> None:
    """systemFailure towards the device; the operator reads what the API said."""
    async with opened(kind, **settings) as site:
        answer = await site.ask(await site.p10cr())
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
        assert said in site.detail
        assert "hvs." not in site.detail


async def test_403_of_an_api_for_bare_keys(opened: Open, token_path: Path) -> None:
    """The RA itself was refused: systemFailure, and the token is nowhere."""
    async with opened("rest") as site:
        token_path.write_text("stolen-token")
        answer = await site.ask(await site.ir())
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
        assert "HTTP 401" in site.detail
        assert "stolen-token" not in site.detail


# --- an API that fails ----------------------------------------------------------------------------------------


def status(code: int, text: str = "<html>", **headers: str) -> Callable[..., Awaitable[Any]]:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=text, headers=headers)

    return respond


async def _too_much(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(b" " * 65536)
    return response


def nested(depth: int) -> str:
    """Return an object whose members, under each API's names, are lists in lists."""
    value = "[" * depth + "]" * depth
    names = ("certificate", "chain", "crt", "certChain", "ca")
    members = ",".join(f'"{name}":{value}' for name in names)
    return f'{{"data":{{{members}}},{members},"errors":{value},"message":{value}}}'


FAILURES = {
    "301": (status(301, Location="/elsewhere"), "systemFailure"),
    "500": (status(500), "systemFailure"),
    "503": (status(503), "systemUnavail"),
    "429": (status(429), "systemUnavail"),
    "not JSON": (status(200), "systemFailure"),
    "a list": (status(200, "[]"), "systemFailure"),
    "deep": (status(200, "[" * 100_000), "systemFailure"),
    "nested": (status(200, nested(900)), "systemFailure"),
    "nested a little": (status(200, nested(20)), "systemFailure"),
    "a list of lists": (status(200, nested(2)), "systemFailure"),
    "many": (status(200, '{"certificate":[' + "0," * 5000 + "0]}"), "systemFailure"),
    "nothing": (status(200, "{}"), "systemFailure"),
    "compressed": (status(200, "{}", **{"Content-Encoding": "gzip"}), "systemFailure"),
    "endless": (_too_much, "systemFailure"),
}


@pytest.mark.requirement(90, 91)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", FAILURES)
async def test_failures(opened: Open, kind: str, failure: str) -> None:
    """Whatever an API does, the device gets a signed error of ours."""
    instead, expected = FAILURES[failure]
    async with opened(kind) as site:
        site.api.instead = instead
        answer = await site.ask(await site.p10cr())
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, [expected])


async def _no_answer(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


@pytest.mark.requirement(90)
async def test_no_answer_in_time(opened: Open) -> None:
    """systemUnavail, and a repeat does not ask again: the API may have issued."""
    async with opened("vault", deadline_seconds=0.2) as site:
        site.api.instead = _no_answer
        der = await site.p10cr()
        answer = await site.ask(der)
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemUnavail"])
        site.api.instead = None
        assert await site.world.post(der) == answer.der
        assert (len(site.api.asked), site.api.issued) == (1, [])


@pytest.mark.requirement(90)
async def test_what_was_certainly_not_delivered_may_be_asked_again(
    opened: Open, token_path: Path
) -> None:
    """systemUnavail; the device's repeat gets its certificate once the API can be asked."""
    async with opened("vault") as site:
        token_path.write_text("")
        der = await site.p10cr()
        assert fail_names(await site.ask(der)) == ["systemUnavail"]
        token_path.write_text(site.api.token)
        answer = await site.ask(der)
        assert (answer.body_type, len(site.api.issued)) == (BodyType.cp, 1)


async def test_delivered_is_said_rightly(token_path: Path) -> None:
    """False where nothing listens or the client is closed, true once a request was written."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = RestClient(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(UpstreamUnavailable) as refused:
            await client.post("x", {}, deadline_seconds=2)
        await client.close()
        with pytest.raises(UpstreamUnavailable) as closed:
            await client.post("x", {}, deadline_seconds=2)
    assert (refused.value.delivered, closed.value.delivered) == (False, False)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    client = RestClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    try:
        with pytest.raises(UpstreamUnavailable) as lost:
            await client.post("x", {"a": 1}, deadline_seconds=2)
    finally:
        await client.close()
        server.close()
    assert lost.value.delivered is True


# --- a certificate that must not be relayed -------------------------------------------------------------------


def _member(kind: str) -> str:
    return "crt" if kind == "step_ca" else "certificate"


def _put(kind: str, value: object) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        if kind == "vault":
            return {"data": {**document["data"], _member(kind): value}}
        return {**document, _member(kind): value}

    return change


@pytest.mark.requirement(86, 87, 88)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "what, said",
    [
        ("foreign key", "another key"),
        ("foreign subject", "not for the requested subject"),
        ("foreign CA", "signing"),
        ("garbage", "no certificate"),
        ("number", "no certificate"),
    ],
)
async def test_wrong_certificates(opened: Open, kind: str, what: str, said: str) -> None:
    """systemFailure towards the device, whatever came instead of its certificate."""
    async with opened(kind) as site:
        key = make_key("p256")

        def wrong() -> object:
            issuing = site.world.operator.issuing
            match what:
                case "foreign key":
                    issued = issuing.sign(requests.SUBJECT, make_key("p256").public_key())
                case "foreign subject":
                    issued = issuing.sign("CN=enb-2.ran.example.net", key.public_key())
                case "foreign CA":
                    issued = other_operator().issuing.sign(requests.SUBJECT, key.public_key())
                case "garbage":
                    return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
                case _:
                    return 7
            return pem(cmp_certificate(issued).der)

        site.api.change = _put(kind, wrong())
        answer = await site.ask(await site.p10cr(key))
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
        assert said in site.detail


# --- signers of others ----------------------------------------------------------------------------------------


class OwnSigner:
    """A signer that does what a test says."""

    def __init__(self, sign: Callable[[SigningRequest], Awaitable[SignedCertificate]]) -> None:
        self._sign = sign

    async def sign(self, request: SigningRequest, *, deadline_seconds: float) -> SignedCertificate:
        return await self._sign(request)

    async def revoke(
        self, issuer_der: bytes, serial_number: int, reason: int, *, deadline_seconds: float
    ) -> None:
        raise not_offered("Nothing is revoked here.")

    async def close(self) -> None:
        return None


@pytest.mark.parametrize("what", ["bug", "slow", "garbage", "long chain"])
async def test_a_signer_of_somebody_else_fails(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, what: str
) -> None:
    """A bug in it is systemFailure, and its text is for the log only; its slowness has an end."""

    async def sign(request: SigningRequest) -> SignedCertificate:
        if what == "bug":
            raise KeyError("the secret")
        if what == "slow":
            await asyncio.sleep(60)
        if what == "long chain":
            root = cmp_certificate(operator_pki.root.certificate).der
            return SignedCertificate(root, (root,) * 17)
        return SignedCertificate(b"garbage")

    world, ca = signing_world(vendor_pki, operator_pki, OwnSigner(sign), deadline_seconds=0.1)
    site = Site(world, ca, None)
    answer = await site.ask(await site.ir())
    expected = "systemUnavail" if what == "slow" else "systemFailure"
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [expected])
    assert "the secret" not in site.detail


async def test_only_the_ra_is_heard(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> None:
    """What is not protected by a certificate of the operator's is answered with an error."""

    async def sign(request: SigningRequest) -> SignedCertificate:
        raise AssertionError("not to be asked")

    world, ca = signing_world(vendor_pki, operator_pki, OwnSigner(sign))
    der = await Site(world, ca, None).ir()
    answer = PKIMessage.from_der(await ca.exchange(der, path="", deadline_seconds=1))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["signerNotTrusted"])
    stranger = cmp_credential(operator_pki.device(NAME))
    der = await requests.message(world, stranger, PKIMessage.from_der(der).body_der)
    answer = PKIMessage.from_der(await ca.exchange(der, path="", deadline_seconds=1))
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["notAuthorized"])
    with pytest.raises(UpstreamBroken):
        await ca.exchange(b"garbage", path="", deadline_seconds=1)


def test_a_provisioner_has_a_key_on_p256(operator_pki: OperatorPKI) -> None:
    """Any other cannot sign ES256."""
    with pytest.raises(ConfigError, match="P-256"):
        Provisioner(
            "ra",
            make_key("p384"),
            setting="upstreams.step.provisioner_key_path",
            root=cmp_certificate(operator_pki.root.certificate),
            clock=ManualClock(),
        )


# --- from a configuration -------------------------------------------------------------------------------------


def configuration(directory: Path, vendor: VendorPKI, operator: OperatorPKI, upstream: str) -> Path:
    """Write a gateway's configuration and the files it names."""
    operator.write(directory)
    vendor.write(directory)
    write_certificates(directory / "acme.pem", vendor.root.certificate)
    write_certificates(directory / "root.pem", operator.root.certificate)
    path = directory / "gateway.toml"
    path.write_text(
        '[ra]\ncertificate_path = "ra.pem"\nkey_path = "ra.key"\nchain_paths = ["issuing.pem"]\n'
        '[operator]\nanchors_paths = ["root.pem"]\nintermediates_paths = ["issuing.pem"]\n'
        'algorithms.signatures = ["ecdsa-sha256"]\n'
        '[vendors.acme]\nanchors_paths = ["acme.pem"]\nbody_types = ["ir", "cr", "p10cr"]\n'
        '[vendors.acme.identity]\nallowed_subjects = ["*"]\nallowed_sans = ["dns:*"]\n'
        '[endpoints.ran]\npaths = ["/cmp"]\nvendors = ["acme"]\nupstream = "main"\n'
        'body_types = ["ir", "kur", "p10cr", "rr"]\n'
        f"[upstreams.main]\n{upstream}\n"
    )
    return path


def secret(directory: Path, name: str, content: str) -> str:
    """Write a secret file; return its name."""
    path = directory / name
    path.write_text(content)
    path.chmod(0o600)
    return name


@pytest.mark.parametrize("kind", KINDS)
async def test_a_configured_gateway(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path, kind: str
) -> None:
    """Out of a file and over TLS: p10cr and certConf; a certificate that its device rejects is revoked."""
    key = ec.generate_private_key(ec.SECP256R1())
    api = fake_api(kind, operator_pki, now, key)
    async with serving(api, server_tls(operator_pki, tmp_path)):
        lines = [f'kind = "{kind}"', f'url = "{api.url}"']
        if kind == "step_ca":
            password = b"of the key"
            pem_key = key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
            )
            lines += [
                'root_path = "root.pem"',
                f'provisioner = "{api.provisioner}"',
                f'provisioner_key_path = "{secret(tmp_path, "step.key", pem_key.decode())}"',
                "provisioner_key_password_path = "
                f'"{secret(tmp_path, "step.password", password.decode())}"',
            ]
        elif kind == "vault":
            name = secret(tmp_path, "vault.token", api.token)
            lines += ['role = "ran"', f'token_path = "{name}"', 'tls_ca_path = "root.pem"']
        else:
            lines[1] = f'url = "{api.url}/certify"'
            name = secret(tmp_path, "api.token", api.token)
            lines += [
                f'token_path = "{name}"',
                f'revoke_url = "{api.url}/revoke"',
                'tls_ca_path = "root.pem"',
            ]
        path = configuration(tmp_path, vendor_pki, operator_pki, "\n".join(lines))
        events: list[RequestHandled] = []
        application = Application(load(path), sink=handled_only(events.append))
        try:
            world = World.make(vendor_pki, operator_pki, clock=ManualClock(now()))
            device = world.device()

            async def ask(der: bytes) -> PKIMessage:
                reply = await application.gateway.handle(der, endpoint="ran")
                return PKIMessage.from_der(reply.der)

            async def enrol(status_info: PKIStatusInfo | None) -> None:
                request = csr(make_key("p256"), requests.SUBJECT, NAME)
                answer = await ask(await p10cr(world, device, request))
                assert status_of(answer).issued, events[-1].detail
                told = CertStatus(digest("sha256", api.issued[-1].der), -1, status_info)
                cert_conf = await follow(device, answer, cert_confirm_body(told), now=now())
                assert (await ask(cert_conf)).body_type is BodyType.pkiconf

            await enrol(None)
            await enrol(PKIStatusInfo(PKIStatus.rejection))
            await UnconfirmedCertificates(application.services).work()
        finally:
            await application.stop()
    _, rejected = api.issued
    assert api.revoked == {rejected.serial_number: 0 if kind == "vault" else 5}


def wrong(lines: str, directory: Path) -> list[str]:
    text = (
        '[ra]\ncertificate_path = "ra.pem"\nkey_path = "ra.key"\n'
        '[operator]\nanchors_paths = ["root.pem"]\n'
        '[endpoints.ran]\npaths = ["/cmp"]\nupstream = "main"\n'
        f"[upstreams.main]\n{lines}\n"
    )
    with pytest.raises(ConfigError) as caught:
        parse(text, directory=directory, check_files=False)
    return [f"{problem.path}: {problem.what}" for problem in caught.value.problems]


VAULT = 'kind = "vault"\nrole = "ran"\ntoken_path = "t"\n'


@pytest.mark.parametrize(
    "lines, problem",
    [
        (VAULT + 'url = "http://vault.example.net:8200"', "url: is not https"),
        (VAULT + 'url = "https://user:pass@vault.example.net"', "url: is more than the address"),
        (VAULT + 'url = "https://v"\nmount = "../sys"', "mount: is not a part of a path"),
        (VAULT + 'url = "https://v"\ncertconf = "forward"', "certconf: is not a known key"),
        (VAULT + 'url = "https://v"\ntoken = "x"', "token: is not a key"),
        (VAULT + 'url = "https://v"\ndeadline_seconds = 200', "deadline_seconds: is longer than"),
        ('kind = "step_ca"\nurl = "https://s"\nprovisioner = ""', "provisioner: must not be empty"),
        ('kind = "rest"\nurl = "https://s"\ncertificate_field = ""', "certificate_field: must not"),
        ('kind = "plugin"', "plugin: is required"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, lines: str, problem: str) -> None:
    """Each problem names the key; secrets stand in files, and tokens travel under TLS."""
    assert any(f"upstreams.main.{problem}" in found for found in wrong(lines, tmp_path))


def test_http_is_for_this_machine(tmp_path: Path) -> None:
    """A server beside the gateway may be spoken to without TLS."""
    assert not any(
        ".url" in found
        for found in wrong(VAULT + 'url = "http://127.0.0.1:8200"\nzzz = 1', tmp_path)
    )


# --- plug-ins -------------------------------------------------------------------------------------------------


def example() -> tuple[str, str]:
    """The module and the entry points of the documented example."""
    text = DOCUMENT.read_text()
    (module,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (declared,) = re.findall(r'"ra_gateway\.upstreams"\]\n(\S+) = "(\S+)"', text)
    return module, f"[ra_gateway.upstreams]\n{declared[0]} = {declared[1]}\n"


def install(directory: Path, name: str, module: str, points: str) -> None:
    """Put a module and its metadata where an installed distribution would have them."""
    (directory / f"{name}.py").write_text(module)
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    return directory


def context(name: str = "lab") -> UpstreamContext:
    return UpstreamContext(name, f"upstreams.{name}.settings", ManualClock())


def test_a_configured_plugin_that_signs_reads_no_cmp(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, distribution: Path, tmp_path: Path
) -> None:
    """certconf and kur are then as of the other kinds that sign; the problem names them."""
    module, points = example()
    name = points.split("=")[1].split(":")[0].strip()
    install(distribution, name, module, points)
    lines = (
        'kind = "plugin"\nplugin = "lab"\ncertconf = "forward"\nkur = "nested"\nrequests = "nested"\n'
        "[upstreams.main.settings]\n"
        f'certificate_path = "{tmp_path}/issuing.pem"\nkey_path = "{tmp_path}/issuing.key"'
    )
    path = configuration(tmp_path, vendor_pki, operator_pki, lines)
    try:
        with pytest.raises(ConfigError) as caught:
            Application(load(path))
    finally:
        sys.modules.pop(name, None)
    assert [problem.path for problem in caught.value.problems] == [
        "upstreams.main.certconf",
        "upstreams.main.kur",
        "upstreams.main.requests",
    ]


async def test_the_documented_plugin_works(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, distribution: Path
) -> None:
    """The example of the documentation, installed, certifies, refuses and says where a setting is wrong."""
    module, points = example()
    name = points.split("=")[1].split(":")[0].strip()
    install(distribution, name, module, points)
    try:
        issuing = operator_pki.issuing
        certificate_path, key_path = issuing.write(distribution, "issuing")
        settings = {"certificate_path": str(certificate_path), "key_path": str(key_path)}
        plugin = points.split("\n")[1].split("=")[0].strip()
        made = make_plugin(plugin, settings, context())
        assert isinstance(made, CertificateSigner)
        world, ca = signing_world(vendor_pki, operator_pki, made)
        site = Site(world, ca, None)
        await site.served(await site.p10cr())
        await site.served(await site.ir(f"dns:{NAME}"))
        answer = await site.ask(await rr(world, world.operator.device(NAME)))
        assert fail_names(answer) == ["badRequest"]
        await ca.close()
        with pytest.raises(ConfigError) as caught:
            make_plugin(plugin, {"certificate_path": str(certificate_path)}, context())
        assert [problem.path for problem in caught.value.problems] == [
            "upstreams.lab.settings.key_path"
        ]
    finally:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "code, said",
    [
        ("def make(settings, context): raise KeyError('the secret')", "failed with KeyError"),
        ("def make(settings, context): return 7", "made a int"),
        ("", "failed with AttributeError"),
    ],
)
def test_plugins_that_cannot_be_used(distribution: Path, code: str, said: str) -> None:
    """The problem names the setting and never the settings' values."""
    install(distribution, "broken_plugin", code, "[ra_gateway.upstreams]\nx = broken_plugin:make\n")
    try:
        with pytest.raises(ConfigError) as caught:
            make_plugin("x", {"password": "the secret"}, context())
    finally:
        sys.modules.pop("broken_plugin", None)
    (problem,) = caught.value.problems
    assert problem.path == "upstreams.lab.plugin"
    assert said in problem.what
    assert "the secret" not in str(problem)


def test_a_plugin_that_is_not_installed(distribution: Path) -> None:
    """The problem names those that are."""
    install(distribution, "other_plugin", "", "[ra_gateway.upstreams]\nother = other_plugin:make\n")
    with pytest.raises(ConfigError, match=r"known are: .*other"):
        make_plugin("missing", {}, context())


def test_a_plugin_may_speak_cmp_itself(distribution: Path) -> None:
    """What has exchange and close is taken as a CA that speaks CMP."""
    code = (
        "class Core:\n"
        "    async def exchange(self, der, *, path, deadline_seconds): return der\n"
        "    async def close(self): pass\n"
        "def make(settings, context): return Core()\n"
    )
    install(distribution, "core_plugin", code, "[ra_gateway.upstreams]\ncmp = core_plugin:make\n")
    try:
        made = make_plugin("cmp", {}, context())
    finally:
        sys.modules.pop("core_plugin", None)
    assert not isinstance(made, CertificateSigner)
    assert callable(made.exchange)
