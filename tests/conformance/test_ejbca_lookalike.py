"""The EJBCA look-alike behaves as EJBCA is known to: one test for each thing that is known.

First what it does when it is spoken to directly, then a gateway in front of it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS, signature_algorithm
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertStatus,
    PKIStatusInfo,
    RevDetails,
    cert_confirm_body,
    cert_rep_message,
    nested_body,
    rev_rep_content,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import (
    RA_VERIFIED_POPO_DER,
    CertTemplate,
    Control,
    Extension,
    cert_req_messages,
    cert_req_msg_der,
    cert_request_der,
    popo_signing_key_input,
)
from ra_gateway.cmp.mac import MACBounds, MACCredential, SharedSecret, compute_mac, mac_parameters
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIHeader, PKIMessage, assemble, body
from ra_gateway.cmp.names import directory_name, from_rfc4514, general_names, name_of, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import (
    Credential,
    Protecting,
    protect,
    protected_part,
    verify_protection,
)
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.device.values import Done, RequestOptions, Send
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.keys import KeySigner
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import SubjectRule, Variant
from ra_gateway.upstream.http import HttpCA
from tests.support import pki
from tests.support.answers import fail_names, status_of
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.ejbca import (
    CA,
    CLIENT_ALIAS,
    EMPTY,
    ENDUSER,
    ISSUING_CA,
    PROFILE,
    RA_ALIAS,
    VENDOR_ALIAS,
    CertificateProfile,
    Ejbca,
    EndEntity,
    EndEntityProfile,
    Role,
    Status,
    ca_id,
    make_ejbca,
    register,
    serve,
    upstream_of,
)
from tests.support.harness import ManualClock, World, changed
from tests.support.mac import pbm, pbmac1
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.requests import (
    SUBJECT,
    csr,
    message,
    popo,
    request,
    requests_body,
    spki,
    template,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
USERNAME = "enb-1.ran.example.net"
KEY_COMPROMISE = 1


@dataclass
class Requester:
    """Sends EJBCA what an RA or a device sends, with any one thing got wrong."""

    operator: OperatorPKI
    ejbca: Ejbca
    alias: str = RA_ALIAS

    @property
    def ra(self) -> Credential:
        return cmp_credential(self.operator.ra)

    @property
    def ca(self) -> Certificate:
        return cmp_certificate(self.operator.issuing.certificate)

    def set_alias(self, **changes: Any) -> None:
        self.ejbca.aliases[self.alias] = replace(self.ejbca.aliases[self.alias], **changes)

    async def message(
        self,
        body_der: bytes,
        *,
        signer: Protecting | None = None,
        extra_certs: Iterable[bytes] | None = None,
        **header: Any,
    ) -> bytes:
        signer = signer or self.ra
        usual = PKIHeader(
            sender_der=signer.protector.sender_der,
            recipient_der=directory_name(self.ca.subject_der),
            message_time=NOW,
            transaction_id=secrets.token_bytes(16),
            sender_nonce=secrets.token_bytes(16),
        )
        certificates = signer.certificates if extra_certs is None else extra_certs
        return await protect(replace(usual, **header), body_der, signer, certificates)

    async def request(
        self,
        key: Any = None,
        asked: CertTemplate | None = None,
        *,
        body_type: BodyType = BodyType.ir,
        cert_req_id: int = 0,
        controls: Iterable[Control] = (),
        popo_der: bytes | None = None,
        **options: Any,
    ) -> bytes:
        key = key or make_key("p256")
        certificate_request = cert_request_der(
            asked or template(key), cert_req_id=cert_req_id, controls=controls
        )
        popo_der = await popo(certificate_request, key) if popo_der is None else popo_der
        body_der = requests_body(
            cert_req_msg_der(certificate_request, popo_der), body_type=body_type
        )
        return await self.message(body_der, **options)

    async def send(self, der: bytes) -> PKIMessage:
        return PKIMessage.from_der(
            await self.ejbca.exchange(der, path=self.alias, deadline_seconds=5.0)
        )

    async def ask(self, *args: Any, **options: Any) -> PKIMessage:
        return await self.send(await self.request(*args, **options))

    async def enrol(self, *args: Any, **options: Any) -> Certificate:
        """Send a request that is to be granted, and return the certificate."""
        answer = await self.ask(*args, **options)
        assert answer.body_type is not BodyType.error, status_of(answer)
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.certificate_der is not None, response.status_info
        return Certificate.from_der(response.certificate_der)

    async def revoke(
        self, certificate: Certificate, reason: int | None = KEY_COMPROMISE, **options: Any
    ) -> PKIMessage:
        named = CertTemplate(
            issuer_der=certificate.issuer_der, serial_number=certificate.serial_number
        )
        return await self.send(await self.message(revocation(named, reason), **options))


def revocation(named: CertTemplate, reason: int | None = None) -> bytes:
    """The body of an rr."""
    code = () if reason is None else (Extension(OID.reasonCode, False, bytes((0x0A, 1, reason))),)
    return rev_req_body(RevDetails(named, code))


def confirmation(cert_hash: bytes = bytes(32), status: PKIStatusInfo | None = None) -> bytes:
    """The body of a certConf."""
    return cert_confirm_body(CertStatus(cert_hash, 0, status))


def assert_says(
    answer: PKIMessage,
    fragment: str,
    fail_info: str | None = "badRequest",
    body_type: BodyType = BodyType.error,
) -> None:
    """Assert that an answer is a refusal with part of a text and one failInfo, or none."""
    info = status_of(answer)
    found = (answer.body_type, info.status, fail_names(answer))
    assert found == (body_type, PKIStatus.rejection, [fail_info] if fail_info else []), info
    assert fragment.casefold() in " ".join(info.status_string).casefold()


def assert_signed_by(answer: PKIMessage, ca: Certificate, operator: OperatorPKI) -> None:
    """Assert that an answer is under the certificate-signing key of a CA."""
    verify_protection(answer, signature_algorithm(answer.header.protection_alg_der or b""), ca)
    assert answer.header.sender_kid == ca.subject_key_identifier
    assert answer.extra_certs[0] == ca.der
    assert answer.extra_certs[-1] == operator.root.der


def issued_in(answer: PKIMessage) -> Certificate:
    """The certificate in an ip, cp or kup."""
    return Certificate.from_der(
        cert_rep_message(answer.body_content).responses[0].certificate_der or b""
    )


def shared_secret(secret: str, algorithm_der: bytes, reference: bytes = b"ref") -> MACCredential:
    """A shared secret that protects messages."""
    parameters = mac_parameters(algorithm_der, MACBounds())
    shared = SharedSecret(reference, secret.encode(), b"\x30\x00")
    return MACCredential(shared, parameters, parameters.derive(secret.encode()))


@pytest.fixture
def ejbca(operator_pki: OperatorPKI, vendor_pki: VendorPKI) -> Ejbca:
    return make_ejbca(operator_pki, vendor=vendor_pki, clock=lambda: NOW)


@pytest.fixture
def gateway(operator_pki: OperatorPKI, ejbca: Ejbca) -> Requester:
    """An RA at the alias in RA mode."""
    return Requester(operator_pki, ejbca)


@pytest.fixture
def client(operator_pki: OperatorPKI, ejbca: Ejbca) -> Requester:
    """A device at the alias in client mode."""
    return Requester(operator_pki, ejbca, CLIENT_ALIAS)


# --- no state -------------------------------------------------------------------------------------------------


async def test_a_replayed_ir_issues_again(gateway: Requester) -> None:
    """There is no transaction state: the same octets get a second certificate."""
    ir = await gateway.request()
    first, second = await gateway.send(ir), await gateway.send(ir)
    assert [issued_in(first), issued_in(second)] == gateway.ejbca.issued
    assert gateway.ejbca.issued[0].serial_number != gateway.ejbca.issued[1].serial_number


@pytest.mark.parametrize(
    "header",
    [
        {"message_time": NOW - timedelta(days=400)},
        {"message_time": None},
        {"transaction_id": b"\x01\x02\x03\x04", "sender_nonce": b"\x05"},
        {"recip_nonce": bytes(4)},
        {"sender_der": directory_name(from_rfc4514("CN=somebody else"))},
        {"sender_kid": b"\xff"},
    ],
)
async def test_what_a_header_says_is_not_checked(gateway: Requester, header: Any) -> None:
    """messageTime, nonces, sender and senderKID may be anything; IDs of any length are echoed."""
    ir = PKIMessage.from_der(await gateway.request(**header))
    answer = await gateway.send(ir.der)
    assert answer.body_type is BodyType.ip
    assert answer.header.transaction_id == ir.header.transaction_id
    assert answer.header.recip_nonce == ir.header.sender_nonce


@pytest.mark.parametrize(
    "status",
    [None, PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.incorrectData,))],
)
@pytest.mark.parametrize("body_type", [BodyType.certConf, BodyType.pkiconf])
async def test_a_certconf_is_not_read(
    gateway: Requester, body_type: BodyType, status: PKIStatusInfo | None
) -> None:
    """Unsigned, with a wrong hash, accepting or not: every certConf gets pkiConf and revokes nothing."""
    await gateway.enrol()
    body_der = PKICONF_BODY if body_type is BodyType.pkiconf else confirmation(status=status)
    sent = PKIMessage.from_der(await gateway.message(body_der))
    answer = await gateway.send(assemble(sent.header_der, sent.body_der, None))
    assert answer.body_der == PKICONF_BODY
    assert answer.header.sender_der == sent.header.recipient_der
    assert answer.header.recipient_der == sent.header.sender_der
    assert_signed_by(answer, gateway.ca, gateway.operator)
    assert gateway.ejbca.revoked == []


async def test_a_pkiconf_is_signed_by_the_ca_addressed(gateway: Requester) -> None:
    """The recipient selects the signer of pkiConf, else defaultca does; without either it is unprotected."""
    root = cmp_certificate(gateway.operator.root.certificate)
    to_root: Any = {"recipient_der": directory_name(root.subject_der)}
    answer = await gateway.send(await gateway.message(confirmation(), **to_root))
    assert_signed_by(answer, root, gateway.operator)
    nobody: Any = {"recipient_der": directory_name(from_rfc4514("CN=nobody"))}
    answer = await gateway.send(await gateway.message(confirmation(), **nobody))
    assert_signed_by(answer, gateway.ca, gateway.operator)
    gateway.set_alias(defaultca="")
    answer = await gateway.send(await gateway.message(confirmation(), **nobody))
    assert (answer.body_type, answer.protection) == (BodyType.pkiconf, None)


# --- the signer of a request ----------------------------------------------------------------------------------


async def test_the_last_certificate_that_is_no_cas_is_the_signer(gateway: Requester) -> None:
    """A device's certificate behind the RA's is taken for the signer, so that a proper message is refused."""
    device = gateway.operator.device()
    answer = await gateway.ask(extra_certs=(*gateway.ra.certificates, device.der))
    assert_says(answer, "could not be found in the database")
    register(gateway.ejbca, cmp_certificate(device.certificate), "device")
    answer = await gateway.ask(extra_certs=(*gateway.ra.certificates, device.der))
    assert_says(answer, "chain")
    answer = await gateway.ask(extra_certs=(device.der, *gateway.ra.certificates))
    assert_says(answer, "chain")


async def test_a_second_certificate_spoils_the_signature(gateway: Requester) -> None:
    """With verifications omitted, the last certificate is still the one that the signature is checked by."""
    gateway.set_alias(
        racertificatepath=(gateway.ra.certificate,),
        ra_endentitycertificate_omitverifications=True,
    )
    device = gateway.operator.device()
    inner = await gateway.request(extra_certs=(*gateway.ra.certificates, device.der))
    answer = await gateway.send(await gateway.message(nested_body(inner)))
    assert_says(answer, "failed to verify the signature")


async def test_the_path_wants_the_leaf_first(gateway: Requester) -> None:
    """The RA's certificate behind its issuer's is found, but its path is not."""
    issuing, root = gateway.operator.issuing.der, gateway.operator.root.der
    assert_says(await gateway.ask(extra_certs=(issuing, gateway.ra.certificate.der)), "chain")
    await gateway.enrol(extra_certs=(gateway.ra.certificate.der, issuing, root))


@pytest.mark.parametrize("extra_certs", [(), (b"\x30\x00",), "ca"])
async def test_a_request_without_a_certificate(gateway: Requester, extra_certs: Any) -> None:
    """extraCerts that is missing, unreadable or has CAs only is refused."""
    if extra_certs == "ca":
        extra_certs = (gateway.operator.issuing.der,)
    answer = await gateway.ask(extra_certs=extra_certs)
    assert_says(answer, "reading a certificate from the extraCert")


async def test_a_request_without_protection(gateway: Requester) -> None:
    """It is refused."""
    ir = PKIMessage.from_der(await gateway.request())
    answer = await gateway.send(assemble(ir.header_der, ir.body_der, None, ir.extra_certs))
    assert_says(answer, "no PKI protection is found")


async def test_an_ra_that_is_not_in_the_database(
    gateway: Requester, operator_pki: OperatorPKI
) -> None:
    """It is refused, unless web.reqcertindb is off; then its role counts alone."""
    gateway.ejbca.database.certificates.clear()
    assert_says(await gateway.ask(), "could not be found in the database")
    gateway.ejbca.req_cert_in_db = False
    await gateway.enrol()


@pytest.mark.parametrize(
    "change, fragment", [({"reason": 1}, "is revoked"), ({"active": False}, "is not active")]
)
async def test_an_ra_out_of_use(gateway: Requester, change: dict[str, Any], fragment: str) -> None:
    """A revoked or inactive certificate of the RA is refused."""
    (stored,) = gateway.ejbca.database.certificates
    for name, value in change.items():
        setattr(stored, name, value)
    assert_says(await gateway.ask(), fragment)


@pytest.mark.parametrize(
    "now, fragment",
    [
        (pki.VALID_UNTIL + timedelta(days=1), "certificate has expired"),
        (pki.VALID_FROM - timedelta(days=1), "not yet valid"),
    ],
)
async def test_an_ra_out_of_its_validity(gateway: Requester, now: datetime, fragment: str) -> None:
    """An expired certificate of the RA is refused, and one that is not valid yet."""
    gateway.ejbca.clock = lambda: now
    assert_says(await gateway.ask(), fragment)


@pytest.mark.parametrize("name", ["RootCA", "no such CA"])
async def test_a_wrong_ca_in_authenticationparameters(gateway: Requester, name: str) -> None:
    """Another CA than the issuer of the RA's certificate makes its path invalid."""
    gateway.set_alias(authenticationparameters=name)
    assert_says(await gateway.ask(), "chain")


@pytest.mark.parametrize("key_usage", [None, ("keyEncipherment",)])
async def test_the_ras_key_usage_is_not_checked(gateway: Requester, key_usage: Any) -> None:
    """An RA without digitalSignature is served."""
    ra = gateway.operator.issuing.issue("Example Operator RA", key_usage=key_usage)
    register(gateway.ejbca, cmp_certificate(ra.certificate), "ra 2")
    await gateway.enrol(signer=cmp_credential(ra))


async def test_a_wrong_signature(gateway: Requester) -> None:
    """It is refused."""
    ir = PKIMessage.from_der(await gateway.request())
    forged = assemble(ir.header_der, ir.body_der, bytes(64), ir.extra_certs)
    assert_says(await gateway.send(forged), "failed to verify the signature")


async def test_rsassa_pss_does_not_verify(gateway: Requester) -> None:
    """Its parameters are not applied, so that PSS with SHA-256 fails where PKCS #1 v1.5 passes."""
    ra = gateway.operator.issuing.issue("Example Operator RA", "rsa2048")
    register(gateway.ejbca, cmp_certificate(ra.certificate), "ra 2")
    pss = KeySigner(ra.private_key, SIGNATURE_ALGORITHMS["rsa-pss-sha256"])
    answer = await gateway.ask(signer=replace(cmp_credential(ra), signer=pss))
    assert_says(answer, "failed to verify the signature")
    await gateway.enrol(signer=cmp_credential(ra))


async def test_a_signature_over_ber_does_not_verify(gateway: Requester) -> None:
    """Header and body are encoded anew before they are verified, which only DER survives."""
    ir = PKIMessage.from_der(await gateway.request())
    inner = asn1.content(asn1.element(ir.header_der))
    header_ber = b"\x30\x83" + len(inner).to_bytes(3, "big") + inner
    signature = await gateway.ra.protection(protected_part(header_ber, ir.body_der))
    signed_ber = assemble(header_ber, ir.body_der, signature, ir.extra_certs)
    assert_says(await gateway.send(signed_ber), "failed to verify the signature")
    assert ir.protection is not None
    sent_as_ber = assemble(header_ber, ir.body_der, ir.protection, ir.extra_certs)
    assert (await gateway.send(sent_as_ber)).body_type is BodyType.ip


# --- rights ---------------------------------------------------------------------------------------------------


async def test_an_ra_that_is_in_no_role(gateway: Requester) -> None:
    """It is no authorized administrator."""
    gateway.ejbca.roles.clear()
    assert_says(await gateway.ask(), "not an authorized administrator")


@pytest.mark.parametrize("index", range(6))
async def test_an_ra_that_lacks_a_right(gateway: Requester, index: int) -> None:
    """Each of the six rights is needed."""
    gateway.ejbca.roles = {
        name: replace(role, rules=role.rules - {sorted(enrolment_rules(role))[index]})
        for name, role in gateway.ejbca.roles.items()
    }
    assert_says(await gateway.ask(), "not an authorized administrator")


def enrolment_rules(role: Role) -> list[str]:
    return [rule for rule in role.rules if not rule.endswith("revoke_end_entity")]


async def test_the_profile_empty_needs_all_rights(gateway: Requester) -> None:
    """EMPTY is for administrators with the right to "/"."""
    gateway.set_alias(ra_endentityprofile=EMPTY)
    assert_says(await gateway.ask(), "not an authorized administrator")
    gateway.ejbca.roles = {
        name: replace(role, rules=frozenset({"/"})) for name, role in gateway.ejbca.roles.items()
    }
    await gateway.enrol()


@pytest.mark.parametrize("setting", ["ra_caname", "ra_certificateprofile", "ra_endentityprofile"])
async def test_an_alias_that_names_what_does_not_exist(gateway: Requester, setting: str) -> None:
    """To an RA with a certificate a missing CA or profile looks like a missing right."""
    gateway.set_alias(**{setting: "missing"})
    assert_says(await gateway.ask(), "not an authorized administrator")


async def test_a_certificate_profile_that_does_not_list_the_ca(gateway: Requester) -> None:
    """The RA may not use it."""
    gateway.ejbca.certificate_profiles[ENDUSER] = CertificateProfile(
        available_cas=frozenset({"RootCA"})
    )
    assert_says(await gateway.ask(), "not an authorized administrator")


async def test_approvals(gateway: Requester) -> None:
    """Where requests have to be approved, none is granted: notAuthorized."""
    gateway.ejbca.cas[ISSUING_CA] = CA(gateway.operator.issuing, approvals=True)
    assert_says(await gateway.ask(), "approval", "notAuthorized")


# --- ir and cr in RA mode -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cert_req_id", [0, 355, -1])
@pytest.mark.parametrize(
    "body_type, expected", [(BodyType.ir, BodyType.ip), (BodyType.cr, BodyType.cp)]
)
async def test_names_come_from_the_template(
    gateway: Requester, body_type: BodyType, expected: BodyType, cert_req_id: int
) -> None:
    """Subject and subjectAltName are the template's; any certReqId is echoed."""
    key = make_key("p256")
    asked = template(key, san=("dns:enb-1.ran.example.net", "ip:192.0.2.1"))
    answer = await gateway.ask(key, asked, body_type=body_type, cert_req_id=cert_req_id)
    certificate = issued_in(answer)
    assert answer.body_type is expected
    assert cert_rep_message(answer.body_content).responses[0].cert_req_id == cert_req_id
    assert (certificate.subject, certificate.spki_der) == (SUBJECT, spki(key))
    assert general_names(certificate.subject_alt_name_der or b"") == (
        "dns:enb-1.ran.example.net",
        "ip:192.0.2.1",
    )


async def test_an_ir_for_a_known_username_is_granted_again(gateway: Requester) -> None:
    """RA mode knows no dead end: the end entity is edited, and gets another certificate."""
    await gateway.enrol()
    key = make_key("p256")
    again = await gateway.enrol(key, template(key, san=("dns:new.example.net",)))
    entity = gateway.ejbca.database.entities[USERNAME]
    assert (
        general_names(again.subject_alt_name_der or b"") == entity.san == ("dns:new.example.net",)
    )
    assert entity.status is Status.generated


async def test_a_request_without_subject(gateway: Requester) -> None:
    """It is rejected in the ip, which names nobody and is unprotected."""
    key = make_key("p256")
    asked = template(key, None)
    for without in (asked, replace(asked, subject_der=b"\x30\x00")):
        answer = await gateway.ask(key, without, popo_der=RA_VERIFIED_POPO_DER)
        assert_says(answer, "DN Name can not be null", "incorrectData", BodyType.ip)
        assert_placeholders(answer)


def assert_placeholders(answer: PKIMessage) -> None:
    names = [name_of(answer.header.sender_der), name_of(answer.header.recipient_der)]
    assert [rfc4514(name or b"") for name in names] == ["CN=fooIssuer", "CN=fooSubject"]
    assert (answer.protection, answer.extra_certs) == (None, ())


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"DNSNAME": 1}, "wrong number of DNSNAME"),
        ({"UID": 1}, "wrong number of UID"),
        ({"CN": 0}, "wrong number of CN"),
        ({"IPADDRESS": 0}, "wrong number of IPADDRESS"),
    ],
)
async def test_names_that_do_not_fit_the_profile(
    gateway: Requester, fields: dict[str, int], text: str
) -> None:
    """A missing or extra name is rejected in the ip with incorrectData."""
    gateway.ejbca.end_entity_profiles[PROFILE] = EndEntityProfile(7, fields)
    key = make_key("p256")
    answer = await gateway.ask(key, template(key, san=("ip:192.0.2.1",)))
    assert_says(answer, text, "incorrectData", BodyType.ip)
    assert_placeholders(answer)


async def test_only_the_first_request_is_processed(gateway: Requester) -> None:
    """A second CertReqMsg is ignored without a word."""
    requests = []
    for subject in ("CN=first", "CN=second"):
        key = make_key("p256")
        der = cert_request_der(template(key, subject))
        requests.append(cert_req_msg_der(der, await popo(der, key)))
    answer = await gateway.send(await gateway.message(requests_body(*requests)))
    assert [item.subject for item in gateway.ejbca.issued] == ["CN=first"]
    assert len(cert_rep_message(answer.body_content).responses) == 1


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, USERNAME),
        ({"ra_namegenerationparameters": "UID;SN;CN"}, "7"),
        ({"ra_namegenerationprefix": "a_", "ra_namegenerationpostfix": "_IPSEC"}, None),
        ({"ra_namegenerationscheme": "FIXED", "ra_namegenerationparameters": "one"}, "one"),
    ],
)
async def test_usernames(gateway: Requester, changes: dict[str, str], expected: str | None) -> None:
    """The username is a part of the subject, the first of a list that it has, or fixed, between affixes."""
    gateway.set_alias(**changes)
    key = make_key("p256")
    await gateway.enrol(key, template(key, f"CN={USERNAME},2.5.4.5=7"))
    assert (expected or f"a_{USERNAME}_IPSEC") in gateway.ejbca.database.entities


async def test_random_usernames(gateway: Requester) -> None:
    """Scheme RANDOM gives twelve characters, ${RANDOM} ten."""
    gateway.set_alias(ra_namegenerationscheme="RANDOM", ra_namegenerationprefix="${RANDOM}-")
    await gateway.enrol()
    *_, username = gateway.ejbca.database.entities
    assert [len(part) for part in username.split("-")] == [10, 12]


async def test_illegal_characters_leave_a_username(gateway: Requester) -> None:
    """What no username may have is stripped; the subject keeps it."""
    key = make_key("p256")
    certificate = await gateway.enrol(key, template(key, "CN=enb%1!"))
    assert ("enb1" in gateway.ejbca.database.entities, certificate.subject) == (True, "CN=enb%1!")


@pytest.mark.parametrize("setting", ["ra_endentityprofile", "ra_certificateprofile", "ra_caname"])
async def test_key_id_is_text(gateway: Requester, setting: str) -> None:
    """KeyId takes senderKID for the name of a profile or CA, so that a real key identifier names none."""
    ejbca = gateway.ejbca
    ejbca.end_entity_profiles["chosen"] = ejbca.end_entity_profiles[PROFILE]
    ejbca.certificate_profiles["chosen"] = CertificateProfile()
    ejbca.cas["chosen"] = ejbca.cas[ISSUING_CA]
    gateway.set_alias(**{setting: "KeyId"})
    assert_says(await gateway.ask(), "not an authorized administrator")
    ra = gateway.ra
    ra.__dict__["protector"] = ra.protector._replace(sender_kid=b"chosen")
    await gateway.enrol(signer=ra)


async def test_a_key_id_is_cut(gateway: Requester) -> None:
    """senderKID counts with its first 128 octets."""
    ejbca, name = gateway.ejbca, "x" * 128
    ejbca.end_entity_profiles[name] = ejbca.end_entity_profiles[PROFILE]
    gateway.set_alias(ra_endentityprofile="KeyId")
    ra = gateway.ra
    ra.__dict__["protector"] = ra.protector._replace(sender_kid=name.encode() + b"y")
    await gateway.enrol(signer=ra)
    assert ejbca.database.entities[USERNAME].end_entity_profile == name


async def test_profile_default(gateway: Requester) -> None:
    """ProfileDefault takes CA and certificate profile from the end entity profile."""
    gateway.set_alias(ra_caname="ProfileDefault", ra_certificateprofile="ProfileDefault")
    assert (await gateway.enrol()).issuer == gateway.ca.subject


async def test_the_profile_says_what_of_a_template_counts(gateway: Requester) -> None:
    """Validity, key usage, other extensions and serial number are the profile's unless it lets them be overridden."""
    key = make_key("p256")
    until = NOW + timedelta(days=5)
    asked = replace(
        template(
            key,
            extensions=(
                Extension(OID.keyUsage, True, b"\x03\x02\x05\x20"),
                Extension(OID.certificatePolicies, False, bytes.fromhex("3006300406022a03")),
            ),
        ),
        not_after=until,
    )
    usual = await gateway.enrol(key, asked)
    assert usual.not_after == NOW + timedelta(days=730)
    assert (usual.key_usage, OID.certificatePolicies in usual.extensions) == (
        frozenset({0}),
        False,
    )
    gateway.ejbca.certificate_profiles[ENDUSER] = CertificateProfile(
        allow_validity_override=True, allow_key_usage_override=True, allow_extension_override=True
    )
    other = await gateway.enrol(key, asked)
    assert other.not_after == until
    assert (other.key_usage, OID.certificatePolicies in other.extensions) == (
        frozenset({2}),
        True,
    )


@pytest.mark.parametrize("allowed", [(False, True), (True, False), (True, True)])
async def test_a_custom_serial_number(gateway: Requester, allowed: tuple[bool, bool]) -> None:
    """It counts only if alias and profile both allow it."""
    gateway.set_alias(ra_allowcustomcertserno=allowed[0])
    gateway.ejbca.certificate_profiles[ENDUSER] = CertificateProfile(
        allow_custom_serial_number=allowed[1]
    )
    key = make_key("p256")
    certificate = await gateway.enrol(key, replace(template(key), serial_number=4711))
    assert (certificate.serial_number == 4711) == all(allowed)


# --- proof of possession --------------------------------------------------------------------------------------


async def test_ra_verified(gateway: Requester) -> None:
    """raVerified passes only with allowraverifypopo."""
    await gateway.enrol(popo_der=RA_VERIFIED_POPO_DER)
    gateway.set_alias(allowraverifypopo=False)
    answer = await gateway.ask(popo_der=RA_VERIFIED_POPO_DER)
    assert_says(answer, "", "badPOP")


@pytest.mark.parametrize("kind", ["another key", "keyEncipherment", "none"])
async def test_possession_not_proved(gateway: Requester, kind: str) -> None:
    """A signature by another key, an unsupported method and none at all are badPOP, and nothing is issued."""
    key = make_key("p256")
    popo_der = {
        "another key": await popo(cert_request_der(template(key)), make_key("p256")),
        "keyEncipherment": b"\xa2\x03\x81\x01\x00",
        "none": b"",
    }[kind]
    assert_says(await gateway.ask(key, popo_der=popo_der), "", "badPOP")
    assert gateway.ejbca.issued == []


@pytest.mark.parametrize("subject", [SUBJECT, "CN=another"])
async def test_poposkinput_must_repeat_the_template(gateway: Requester, subject: str) -> None:
    """POPOSigningKeyInput counts if its subject, as a string, and its key are the template's."""
    key = make_key("p256")
    signed = popo_signing_key_input(directory_name(from_rfc4514(subject)), spki(key))
    answer = await gateway.ask(key, popo_der=await popo(signed, key, input_der=signed))
    assert (answer.body_type is BodyType.ip) == (subject == SUBJECT)


async def test_a_sha1_proof_is_taken(gateway: Requester) -> None:
    """There is no list of allowed hashes."""
    key = make_key("p256")
    algorithm = SIGNATURE_ALGORITHMS["ecdsa-sha1"]
    signature = await popo(cert_request_der(template(key)), key, algorithm=algorithm)
    await gateway.enrol(key, popo_der=signature)


# --- answers --------------------------------------------------------------------------------------------------


async def test_how_an_answer_is_addressed_and_signed(gateway: Requester) -> None:
    """The CA's certificate-signing key signs; the recipient is the new certificate's subject, not the RA."""
    ir = PKIMessage.from_der(await gateway.request(pvno=3))
    answer = await gateway.send(ir.der)
    header = answer.header
    assert_signed_by(answer, gateway.ca, gateway.operator)
    assert rfc4514(name_of(header.recipient_der) or b"") == issued_in(answer).subject == SUBJECT
    assert rfc4514(name_of(header.sender_der) or b"") == gateway.ca.subject
    assert (header.pvno, header.sender_kid) == (2, gateway.ca.subject_key_identifier)
    assert header.recip_nonce == ir.header.sender_nonce
    assert header.sender_nonce not in (None, ir.header.sender_nonce)
    assert len(header.sender_nonce or b"") == 16


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
async def test_the_digest_is_the_requests(gateway: Requester, digest: str) -> None:
    """A request signed with SHA-1 gets an answer signed with SHA-1."""
    algorithm = SIGNATURE_ALGORITHMS[f"ecdsa-{digest}"]
    signer = KeySigner(gateway.operator.ra.private_key, algorithm)
    answer = await gateway.ask(signer=replace(gateway.ra, signer=signer))
    assert answer.header.protection_alg_der == algorithm.der


async def test_an_rsa_ca_signs_as_in_pkcs1(vendor_pki: VendorPKI) -> None:
    """Its answers are under PKCS #1 v1.5 with the request's digest, never under PSS."""
    operator = pki.make_operator_pki("RSA Operator", "rsa2048")
    gateway = Requester(operator, make_ejbca(operator, clock=lambda: NOW))
    answer = await gateway.ask()
    assert answer.header.protection_alg_der == SIGNATURE_ALGORITHMS["rsa-pkcs1-sha256"].der


async def test_extra_certs_and_ca_pubs(gateway: Requester) -> None:
    """extraCerts has the CA chain with the root, then extracertsca; caPubs the issuing CA, then capubsca."""
    issuing, root = gateway.operator.issuing.der, gateway.operator.root.der
    number = ca_id(cmp_certificate(gateway.operator.root.certificate).subject_der)
    answer = await gateway.ask()
    assert answer.extra_certs == (issuing, root)
    assert cert_rep_message(answer.body_content).ca_pubs == (issuing,)
    gateway.set_alias(response_capubsca=(number,), response_extracertsca=(number,))
    answer = await gateway.ask()
    assert answer.extra_certs == (issuing, root, root)
    assert cert_rep_message(answer.body_content).ca_pubs == (issuing, root)
    gateway.set_alias(response_capubsissuingca=False, response_capubsca=())
    assert cert_rep_message((await gateway.ask()).body_content).ca_pubs == ()


@pytest.mark.parametrize("asked", [True, False])
async def test_implicit_confirmation_is_granted_to_whoever_asks(
    gateway: Requester, asked: bool
) -> None:
    """It is echoed when requested, and never offered."""
    info = (IMPLICIT_CONFIRM,) if asked else ()
    assert (await gateway.ask(general_info=info)).header.implicit_confirm == asked


async def test_the_senders_string_types_may_be_others(gateway: Requester) -> None:
    """The sender is rebuilt from a string: a PrintableString of the CA's name becomes a UTF8String."""
    printable = _ASN1Type.PrintableString
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Printed", printable)])
    issuing = pki.make_root("Printed")
    certificate = issuing.sign(name, issuing.private_key.public_key())
    issuing = replace(issuing, certificate=certificate)
    gateway.ejbca.cas["Printed"] = CA(issuing)
    gateway.ejbca.roles = {
        name: replace(role, rules=frozenset({"/"})) for name, role in gateway.ejbca.roles.items()
    }
    gateway.set_alias(ra_caname="Printed")
    answer = await gateway.ask()
    printed = cmp_certificate(issuing.certificate).subject_der
    assert name_of(answer.header.sender_der) != printed
    assert rfc4514(name_of(answer.header.sender_der) or b"") == rfc4514(printed) == "CN=Printed"


@pytest.mark.parametrize(
    "recipient, signed",
    [("known", True), ("known in capitals", True), ("CN=nobody", False), ("", False)],
)
async def test_errors_are_signed_for_those_who_know_the_ca(
    gateway: Requester, recipient: str, signed: bool
) -> None:
    """An error is signed only if the recipient is a CA it knows by its normalised name; defaultca does not help."""
    name = gateway.ca.subject.upper() if "capitals" in recipient else gateway.ca.subject
    name = name if recipient.startswith("known") else recipient
    gateway.ejbca.roles.clear()
    answer = await gateway.ask(recipient_der=directory_name(from_rfc4514(name)))
    assert_says(answer, "not an authorized administrator")
    assert (answer.protection is not None) == signed
    if signed:
        assert_signed_by(answer, gateway.ca, gateway.operator)


async def test_errors_of_old_releases_are_unprotected(gateway: Requester) -> None:
    """Before release 8 all were."""
    gateway.ejbca.release = 7
    gateway.ejbca.roles.clear()
    assert (await gateway.ask()).protection is None


@pytest.mark.parametrize("octets", [b"", b"hello", b"\x30\x03\x02\x01", bytes(500), b"\x30\x80"])
async def test_octets_that_are_no_message(gateway: Requester, octets: bytes) -> None:
    """The error is unprotected, has NULL names and a transactionID of its own."""
    answer = await gateway.send(octets)
    assert_says(answer, "not a valid CMP message")
    assert answer.protection is None
    assert answer.header.sender_der == answer.header.recipient_der == directory_name(b"\x30\x00")
    assert len(answer.header.transaction_id or b"") == 16


@pytest.mark.parametrize("body_type", [BodyType.genm, BodyType.pollReq, BodyType.krr, BodyType.ccr])
async def test_bodies_that_it_does_not_know(gateway: Requester, body_type: BodyType) -> None:
    """There is no genm, no polling, no key recovery and no cross-certification."""
    answer = await gateway.send(await gateway.message(body(body_type, b"\x30\x00")))
    assert_says(answer, "not supported")


# --- kur in RA mode -------------------------------------------------------------------------------------------


def update(key: Any, subject: str | None = SUBJECT, **fields: Any) -> CertTemplate:
    return template(key, subject, **fields)


async def test_a_kur_under_the_ra(gateway: Requester) -> None:
    """The entity is named by subject and issuer; profile and CA are its own, not the alias's."""
    old = await gateway.enrol()
    gateway.set_alias(ra_caname="missing", ra_endentityprofile="missing")
    key = make_key("p256")
    asked = update(key, issuer_der=gateway.ca.subject_der)
    answer = await gateway.ask(key, asked, body_type=BodyType.kur)
    assert answer.body_type is BodyType.kup
    assert (issued_in(answer).subject, issued_in(answer).issuer) == (old.subject, old.issuer)


async def test_old_cert_id_is_not_read(gateway: Requester) -> None:
    """oldCertID may name anything."""
    await gateway.enrol()
    nonsense = Control(OID.oldCertID, bytes.fromhex("3003020101"))
    await gateway.enrol(body_type=BodyType.kur, controls=(nonsense,))


async def test_a_kur_signed_by_the_device(gateway: Requester) -> None:
    """A kur under the device's own certificate fails in RA mode, where it is no administrator."""
    key = make_key("p256")
    old = await gateway.enrol(key)
    device = Credential(old, (gateway.ca,), KeySigner(key))
    answer = await gateway.ask(body_type=BodyType.kur, signer=device)
    assert_says(answer, "not an authorized administrator")


async def test_a_kur_without_subject(gateway: Requester) -> None:
    """It is refused, whatever oldCertID says."""
    await gateway.enrol()
    key = make_key("p256")
    answer = await gateway.ask(
        key, update(key, None), body_type=BodyType.kur, popo_der=RA_VERIFIED_POPO_DER
    )
    assert_says(answer, "cannot find a SubjectDN")


@pytest.mark.parametrize("wrong", ["subject", "issuer", "order"])
async def test_a_kur_for_nobody(gateway: Requester, wrong: str) -> None:
    """Another subject, issuer or order of RDNs names no end entity."""
    key = make_key("p256")
    await gateway.enrol(key, template(key, "CN=enb-1,O=Example"))
    subject = {"subject": "CN=enb-2,O=Example", "order": "O=Example,CN=enb-1"}.get(wrong)
    issuer = gateway.operator.root if wrong == "issuer" else gateway.operator.issuing
    asked = update(
        key,
        subject or "CN=enb-1,O=Example",
        issuer_der=cmp_certificate(issuer.certificate).subject_der,
    )
    answer = await gateway.ask(key, asked, body_type=BodyType.kur)
    assert_says(answer, "non-existing end entity")


async def test_a_kur_that_names_two_end_entities(gateway: Requester) -> None:
    """Without an issuer a subject that two end entities have names none; with one it may."""
    await gateway.enrol()
    entity = gateway.ejbca.database.entities[USERNAME]
    gateway.ejbca.database.entities["twin"] = replace(entity, username="twin", ca="RootCA")
    assert_says(await gateway.ask(body_type=BodyType.kur), "non-existing end entity")
    key = make_key("p256")
    asked = update(key, issuer_der=gateway.ca.subject_der)
    await gateway.enrol(key, asked, body_type=BodyType.kur)


async def test_a_kur_for_what_was_revoked(gateway: Requester) -> None:
    """The newest certificate with the subject counts, whoever issued it: a new ir is needed."""
    await gateway.revoke(await gateway.enrol())
    answer = await gateway.ask(body_type=BodyType.kur)
    assert_says(answer, "unable to perform key update")
    await gateway.enrol()
    await gateway.enrol(body_type=BodyType.kur)
    foreign = cmp_certificate(gateway.operator.root.sign(SUBJECT, make_key("p256").public_key()))
    register(gateway.ejbca, foreign, "another").subject_der = from_rfc4514("CN=another")
    gateway.ejbca.database.certificates[-1].reason = 0
    answer = await gateway.ask(body_type=BodyType.kur)
    assert_says(answer, "unable to perform key update")


async def test_a_kur_for_what_has_expired(gateway: Requester) -> None:
    """It is refused; an old certificate that is not valid yet passes."""
    await gateway.enrol()
    gateway.ejbca.clock = lambda: NOW - timedelta(days=1)
    await gateway.enrol(body_type=BodyType.kur)
    gateway.ejbca.clock = lambda: NOW + timedelta(days=800)
    assert_says(await gateway.ask(body_type=BodyType.kur), "is expired")


async def test_a_kur_for_one_without_a_certificate(gateway: Requester) -> None:
    """It ends in HTTP 500."""
    await gateway.enrol()
    del gateway.ejbca.database.certificates[1:]
    with pytest.raises(UpstreamBroken, match="HTTP 500"):
        await gateway.ask(body_type=BodyType.kur)


async def test_a_kur_without_automatic_key_update(gateway: Requester) -> None:
    """The end entity has to be NEW, which somebody has to make it by hand."""
    await gateway.enrol()
    gateway.set_alias(allowautomatickeyupdate=False)
    assert_says(await gateway.ask(body_type=BodyType.kur), "status GENERATED", None)
    gateway.ejbca.database.entities[USERNAME].status = Status.new
    await gateway.enrol(body_type=BodyType.kur)


async def test_a_kur_for_the_same_key(gateway: Requester) -> None:
    """It is granted unless allowupdatewithsamekey is off."""
    key = make_key("p256")
    await gateway.enrol(key)
    await gateway.enrol(key, body_type=BodyType.kur)
    gateway.set_alias(allowupdatewithsamekey=False)
    answer = await gateway.ask(key, body_type=BodyType.kur)
    assert_says(answer, "KeyUpdateRequest is the same", "badMessageCheck")


async def test_a_kur_needs_certificates_as_authentication(gateway: Requester) -> None:
    """Without the module EndEntityCertificate there is no kur."""
    gateway.set_alias(authenticationmodule="HMAC", authenticationparameters="secret")
    answer = await gateway.ask(body_type=BodyType.kur)
    assert_says(answer, "authentication module is not configured")


# --- rr -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason, expected", [(KEY_COMPROMISE, KEY_COMPROMISE), (None, 0)])
async def test_a_revocation(gateway: Requester, reason: int | None, expected: int) -> None:
    """The certificate named by issuer and serial number is revoked for the reason in crlEntryDetails."""
    certificate = await gateway.enrol()
    answer = await gateway.revoke(certificate, reason)
    assert (answer.body_type, status_of(answer).status) == (BodyType.rp, PKIStatus.accepted)
    assert gateway.ejbca.revoked == [(certificate, expected)]
    assert_signed_by(answer, gateway.ca, gateway.operator)


async def test_only_the_first_revocation_is_processed(gateway: Requester) -> None:
    """Further RevDetails are ignored without a word."""
    certificates = [await gateway.enrol(), await gateway.enrol()]
    details = b"".join(
        asn1.inner(
            asn1.inner(
                revocation(
                    CertTemplate(issuer_der=item.issuer_der, serial_number=item.serial_number)
                )
            )
        )
        for item in certificates
    )
    body_der = body(BodyType.rr, asn1.tlv(0x30, details))
    answer = await gateway.send(await gateway.message(body_der))
    assert len(rev_rep_content(answer.body_content).statuses) == 1
    assert gateway.ejbca.revoked == [(certificates[0], 0)]


async def test_a_second_revocation(gateway: Requester) -> None:
    """It is refused with certRevoked."""
    certificate = await gateway.enrol()
    await gateway.revoke(certificate)
    assert_says(await gateway.revoke(certificate), "", "certRevoked", BodyType.rp)


async def test_a_revocation_of_what_nobody_knows(gateway: Requester) -> None:
    """It is refused with badCertId, as is the serial number of another CA."""
    certificate = await gateway.enrol()
    for fields in ({"serial_number": 1}, {"issuer_der": from_rfc4514("CN=another CA")}):
        answer = await gateway.revoke(replace(certificate, **fields))
        assert_says(answer, "", "badCertId", BodyType.rp)


@pytest.mark.parametrize("missing", ["issuer_der", "serial_number"])
async def test_a_revocation_that_does_not_say_of_what(gateway: Requester, missing: str) -> None:
    """Issuer and serial number are both mandatory."""
    fields: dict[str, Any] = {"issuer_der": gateway.ca.subject_der, "serial_number": 1}
    named = CertTemplate(**{**fields, missing: None})
    answer = await gateway.send(await gateway.message(revocation(named)))
    assert_says(answer, "", "badRequest", BodyType.rp)


async def test_a_revocation_without_the_right(operator_pki: OperatorPKI, ejbca: Ejbca) -> None:
    """An RA that may enrol need not be allowed to revoke; whoever is no administrator gets an error."""
    gateway = Requester(
        operator_pki, make_ejbca(operator_pki, clock=lambda: NOW, rights=("enrol",))
    )
    certificate = await gateway.enrol()
    assert_says(await gateway.revoke(certificate), "", "notAuthorized", BodyType.rp)
    gateway.ejbca.roles.clear()
    assert_says(await gateway.revoke(certificate), "not an authorized administrator")
    assert gateway.ejbca.revoked == []


async def test_a_revocation_that_waits_for_approval(gateway: Requester) -> None:
    """It is answered with grantedWithMods, and nothing is revoked yet."""
    certificate = await gateway.enrol()
    gateway.ejbca.cas[ISSUING_CA] = CA(gateway.operator.issuing, approvals=True)
    answer = await gateway.revoke(certificate)
    assert status_of(answer).status is PKIStatus.grantedWithMods
    assert gateway.ejbca.revoked == []


async def test_who_answers_a_revocation(gateway: Requester) -> None:
    """The recipient selects the CA that answers; an empty one means the alias's."""
    certificate = await gateway.enrol()
    root = cmp_certificate(gateway.operator.root.certificate)
    answer = await gateway.revoke(certificate, recipient_der=directory_name(root.subject_der))
    assert_signed_by(answer, root, gateway.operator)
    answer = await gateway.revoke(certificate, recipient_der=directory_name(b"\x30\x00"))
    assert_signed_by(answer, gateway.ca, gateway.operator)


async def test_the_sender_of_answers_to_rr_was_once_reversed(gateway: Requester) -> None:
    """Old releases have the RDNs of the sender in reverse."""
    gateway.ejbca.reversed_rr_sender = True
    answer = await gateway.revoke(await gateway.enrol())
    sender = rfc4514(name_of(answer.header.sender_der) or b"")
    assert sender.split(",") == gateway.ca.subject.split(",")[::-1]


# --- p10cr ----------------------------------------------------------------------------------------------------


async def test_a_p10cr_under_the_ra(gateway: Requester) -> None:
    """It is accepted in RA mode."""
    key = make_key("p256")
    answer = await gateway.send(await gateway.message(body(BodyType.p10cr, csr(key))))
    assert answer.body_type is BodyType.cp
    assert issued_in(answer).spki_der == spki(key)


async def test_a_p10cr_has_core_checks_only(gateway: Requester) -> None:
    """Whoever is no administrator passes the module, which has no rule for p10cr, and fails at the core."""
    gateway.ejbca.roles.clear()
    answer = await gateway.send(await gateway.message(body(BodyType.p10cr, csr(make_key("p256")))))
    assert_says(answer, "", "notAuthorized")


# --- nested ---------------------------------------------------------------------------------------------------


@pytest.fixture
def vendor_ir(gateway: Requester, vendor_pki: VendorPKI) -> Callable[[], Any]:
    """An ir as a device sends it."""
    return lambda: gateway.request(signer=cmp_credential(vendor_pki.device()))


async def test_a_nested_message_with_verifications_omitted(
    gateway: Requester, vendor_ir: Callable[[], Any]
) -> None:
    """Under a certificate in racertificatepath, a device's own message is checked by its signature alone."""
    gateway.ejbca.roles.clear()
    other = cmp_certificate(gateway.operator.device().certificate)
    gateway.set_alias(
        racertificatepath=(other, gateway.ra.certificate),
        ra_endentitycertificate_omitverifications=True,
    )
    inner = await vendor_ir()
    answer = await gateway.send(await gateway.message(nested_body(inner, b"\x30\x00")))
    assert answer.body_type is BodyType.ip
    assert answer.header.recip_nonce == PKIMessage.from_der(inner).header.sender_nonce


async def test_a_nested_message_with_verifications(
    gateway: Requester, vendor_ir: Callable[[], Any]
) -> None:
    """Without omitverifications the inner certificate must be an administrator's like any other."""
    gateway.set_alias(racertificatepath=(gateway.ra.certificate,))
    answer = await gateway.send(await gateway.message(nested_body(await vendor_ir())))
    assert_says(answer, "could not be found in the database")
    inner = await gateway.request()
    answer = await gateway.send(await gateway.message(nested_body(inner)))
    assert answer.body_type is BodyType.ip


@pytest.mark.parametrize(
    "known, fragment",
    [(False, "could not verify the RA"), (True, "NestedMessageContent failed")],
)
async def test_a_nested_message_of_a_stranger(
    gateway: Requester, known: bool, fragment: str
) -> None:
    """The outer signature must verify with a certificate in racertificatepath."""
    other = cmp_certificate(gateway.operator.device().certificate)
    gateway.set_alias(racertificatepath=(other,) if known else ())
    answer = await gateway.send(await gateway.message(nested_body(await gateway.request())))
    assert_says(answer, fragment)


@pytest.mark.parametrize("levels, taken", [(15, True), (16, False)])
async def test_nesting_ends_at_15(gateway: Requester, levels: int, taken: bool) -> None:
    """Deeper messages are refused."""
    gateway.set_alias(racertificatepath=(gateway.ra.certificate,))
    der = await gateway.request()
    for _ in range(levels):
        der = await gateway.message(nested_body(der), extra_certs=())
    answer = await gateway.send(der)
    if taken:
        assert answer.body_type is BodyType.ip
    else:
        assert_says(answer, "unreasonable level of nesting")


async def test_verifications_are_omitted_for_nested_messages_only(
    gateway: Requester, client: Requester
) -> None:
    """omitverifications without a nested message, or without RA mode, refuses everything."""
    for requester in (gateway, client):
        requester.set_alias(ra_endentitycertificate_omitverifications=True)
        assert_says(await requester.ask(), "omitting some verifications")


# --- settings that do not fit together ------------------------------------------------------------------------


async def test_as_many_parameters_as_modules(gateway: Requester) -> None:
    """Other counts are a configuration error."""
    gateway.set_alias(authenticationmodule="HMAC;EndEntityCertificate")
    assert_says(await gateway.ask(), "CMP module configuration error", None)


async def test_vendor_mode_is_not_for_ras(gateway: Requester) -> None:
    """Vendor certificate mode cannot be combined with RA mode."""
    gateway.set_alias(vendorcertificatemode=True)
    assert_says(await gateway.ask(), "cannot be combined", None)


async def test_modules_are_tried_in_order(gateway: Requester) -> None:
    """The first that passes decides; if none does, the last one's text is sent."""
    gateway.set_alias(
        authenticationmodule="HMAC;EndEntityCertificate",
        authenticationparameters=f"secret;{ISSUING_CA}",
    )
    await gateway.enrol()
    gateway.ejbca.roles.clear()
    assert_says(await gateway.ask(), "not an authorized administrator")


# --- HMAC -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm_der", [pbm(), pbmac1()])
@pytest.mark.parametrize("protection", ["signature", "pbe"])
async def test_a_shared_secret_in_ra_mode(
    gateway: Requester, algorithm_der: bytes, protection: str
) -> None:
    """A request under the alias's secret is granted; the answer is signed, or under the secret as well."""
    gateway.set_alias(
        authenticationmodule="HMAC",
        authenticationparameters="secret",
        responseprotection=protection,
    )
    mac = shared_secret("secret", algorithm_der)
    answer = await gateway.ask(signer=mac)
    if protection == "pbe":
        octets = protected_part(answer.header_der, answer.body_der)
        assert answer.protection == compute_mac(mac.parameters, mac.key, octets)
    else:
        assert_signed_by(answer, gateway.ca, gateway.operator)
    assert_says(await gateway.ask(signer=shared_secret("wrong", algorithm_der)), "")


async def test_pbe_needs_a_request_under_a_secret(gateway: Requester) -> None:
    """A signed request gets a signed answer whatever responseprotection says."""
    gateway.set_alias(responseprotection="pbe")
    assert_signed_by(await gateway.ask(), gateway.ca, gateway.operator)


@pytest.mark.parametrize("key_id", [EMPTY, ENDUSER])
async def test_key_ids_that_hmac_refuses(gateway: Requester, key_id: str) -> None:
    """With KeyId a secret cannot choose EMPTY or ENDUSER."""
    gateway.set_alias(
        authenticationmodule="HMAC", authenticationparameters="secret", ra_endentityprofile="KeyId"
    )
    mac = shared_secret("secret", pbm(), key_id.encode())
    assert_says(await gateway.ask(signer=mac), key_id)


@pytest.mark.parametrize(
    "setting, fail_info",
    [
        ("ra_caname", "incorrectData"),
        ("ra_certificateprofile", "systemUnavail"),
        ("ra_endentityprofile", "systemUnavail"),
    ],
)
async def test_what_does_not_exist_under_a_secret(
    gateway: Requester, setting: str, fail_info: str
) -> None:
    """Where no administrator is asked for rights, a missing CA or profile has a code of its own."""
    gateway.set_alias(
        authenticationmodule="HMAC", authenticationparameters="secret", **{setting: "missing"}
    )
    assert_says(await gateway.ask(signer=shared_secret("secret", pbm())), "", fail_info)


# --- client mode ----------------------------------------------------------------------------------------------


def entity(ejbca: Ejbca, username: str = USERNAME, **fields: Any) -> EndEntity:
    """An end entity that is registered beforehand."""
    found = EndEntity(
        **{
            "username": username,
            "subject_der": from_rfc4514(f"CN={username}"),
            "ca": ISSUING_CA,
            "certificate_profile": ENDUSER,
            "end_entity_profile": PROFILE,
            "san": ("dns:registered.example.net",),
            **fields,
        }
    )
    ejbca.database.entities[username] = found
    return found


@pytest.fixture
def device(client: Requester) -> Credential:
    """A device in client mode with an active certificate of its own."""
    found = cmp_credential(client.operator.issuing.issue(SUBJECT))
    register(client.ejbca, found.certificate, USERNAME, status=Status.new)
    return found


async def test_an_ir_of_a_client(client: Requester, device: Credential) -> None:
    """It is granted once; then the end entity is GENERATED until somebody resets it by hand."""
    entity(client.ejbca)
    key = make_key("p256")
    certificate = await client.enrol(
        key, template(key, san=("dns:wanted.example.net",)), signer=device
    )
    names = general_names(certificate.subject_alt_name_der or b"")
    assert (certificate.subject, names) == (SUBJECT, ("dns:registered.example.net",))
    assert_says(await client.ask(signer=device), "status GENERATED", None)
    client.ejbca.database.entities[USERNAME].status = Status.new
    await client.enrol(signer=device)


async def test_a_client_asks_for_itself(client: Requester, device: Credential) -> None:
    """A certificate of another end entity does not belong to the user of the request."""
    entity(client.ejbca, "enb-2")
    key = make_key("p256")
    answer = await client.ask(key, template(key, "CN=enb-2"), signer=device)
    assert_says(answer, "does not belong to user")


async def test_a_clients_certificate_is_checked(
    client: Requester, device: Credential, vendor_pki: VendorPKI
) -> None:
    """It must be in the database, active, and of one of EJBCA's CAs."""
    vendor = cmp_credential(vendor_pki.device())
    assert_says(await client.ask(signer=vendor), "could not be found in the database")
    register(client.ejbca, vendor.certificate, "vendor")
    assert_says(await client.ask(signer=vendor), "chain")
    client.ejbca.database.certificates[1].reason = 0
    assert_says(await client.ask(signer=device), "is revoked")


async def test_bad_possession_in_client_mode(client: Requester, device: Credential) -> None:
    """It is badPOP as in RA mode; raVerified is off by default."""
    answer = await client.ask(popo_der=RA_VERIFIED_POPO_DER, signer=device)
    assert_says(answer, "", "badPOP")


async def test_a_client_whose_ca_is_gone(client: Requester, device: Credential) -> None:
    """wrongAuthority."""
    client.ejbca.database.entities[USERNAME].ca = "gone"
    assert_says(await client.ask(signer=device), "", "wrongAuthority")


@pytest.mark.parametrize("module", ["HMAC", "RegTokenPwd", "DnPartPwd"])
@pytest.mark.parametrize("password", ["foo123", "wrong"])
async def test_passwords_of_clients(
    client: Requester, device: Credential, module: str, password: str
) -> None:
    """The end entity's password is a MAC's secret, stands in regToken, or in an attribute of the subject."""
    parameter = "OU" if module == "DnPartPwd" else "-"
    client.set_alias(
        authenticationmodule=module,
        authenticationparameters=parameter,
        extractusernamecomponent="CN",
    )
    entity(client.ejbca, password="foo123")
    options: dict[str, Any] = {"signer": device}
    if module == "HMAC":
        options["signer"] = shared_secret(password, pbm())
    if module == "RegTokenPwd":
        options["controls"] = (Control("1.3.6.1.5.5.7.5.1.1", asn1.encode(password)),)
    key = make_key("p256")
    subject = f"OU={password},{SUBJECT}" if module == "DnPartPwd" else SUBJECT
    answer = await client.ask(key, template(key, subject), **options)
    expected = BodyType.ip if password == "foo123" else BodyType.error
    assert answer.body_type is expected, status_of(answer)


async def test_a_p10cr_has_no_reg_token(client: Requester, device: Credential) -> None:
    """RegTokenPwd, which is in a control of CRMF, is not for p10cr."""
    client.set_alias(authenticationmodule="RegTokenPwd", authenticationparameters="-")
    entity(client.ejbca, password="foo123")
    p10cr = await client.message(body(BodyType.p10cr, csr(make_key("p256"))), signer=device)
    assert_says(await client.send(p10cr), "password")


async def test_a_kur_of_a_client(client: Requester, device: Credential) -> None:
    """The end entity is found by the certificate that signs; the template needs no subject."""
    key = make_key("p256")
    with_subject = await client.ask(
        key, update(key, "CN=ignored"), body_type=BodyType.kur, signer=device
    )
    assert issued_in(with_subject).subject == SUBJECT
    client.set_alias(allowraverifypopo=True)
    without = await client.ask(
        key, update(key, None), body_type=BodyType.kur, signer=device, popo_der=RA_VERIFIED_POPO_DER
    )
    assert issued_in(without).subject == SUBJECT


async def test_a_kur_of_a_client_who_is_gone(client: Requester, device: Credential) -> None:
    """Its certificate alone does not make an end entity: badMessageCheck."""
    del client.ejbca.database.entities[USERNAME]
    answer = await client.ask(body_type=BodyType.kur, signer=device)
    assert_says(answer, "not found", "badMessageCheck")


async def test_a_kur_of_a_client_without_automatic_key_update(
    client: Requester, device: Credential
) -> None:
    """GENERATED refuses it."""
    client.set_alias(allowautomatickeyupdate=False)
    client.ejbca.database.entities[USERNAME].status = Status.generated
    answer = await client.ask(body_type=BodyType.kur, signer=device)
    assert_says(answer, "status GENERATED", None)


@pytest.mark.parametrize(
    "now, fragment", [(pki.VALID_UNTIL + timedelta(days=1), "certificate has expired")]
)
async def test_a_kur_of_a_client_too_late(
    client: Requester, device: Credential, now: datetime, fragment: str
) -> None:
    """The certificate that signs must not have expired."""
    client.ejbca.clock = lambda: now
    answer = await client.ask(body_type=BodyType.kur, signer=device)
    assert_says(answer, fragment)


# --- vendor certificate mode ----------------------------------------------------------------------------------


@pytest.fixture
def station(operator_pki: OperatorPKI, ejbca: Ejbca) -> Requester:
    """A base station at the alias in vendor certificate mode, of an Enterprise Edition."""
    ejbca.enterprise = True
    entity(ejbca, "SN-1")
    return Requester(operator_pki, ejbca, VENDOR_ALIAS)


async def test_a_vendor_certificate(station: Requester, vendor_pki: VendorPKI) -> None:
    """A pre-registered device enrols once with its vendor's certificate, which is in no database."""
    device = cmp_credential(vendor_pki.device("SN-1"))
    key = make_key("p256")
    asked = template(key, "CN=SN-1")
    assert (await station.enrol(key, asked, signer=device)).subject == "CN=SN-1"
    assert_says(await station.ask(key, asked, signer=device), "status GENERATED", None)


async def test_a_vendor_certificate_of_another_device(
    station: Requester, vendor_pki: VendorPKI
) -> None:
    """The username in the vendor's certificate must be the request's."""
    key = make_key("p256")
    other = cmp_credential(vendor_pki.device("SN-2"))
    answer = await station.ask(key, template(key, "CN=SN-1"), signer=other)
    assert_says(answer, "does not belong to user")


async def test_an_end_entity_for_each_purpose(station: Requester, vendor_pki: VendorPKI) -> None:
    """Prefix and postfix of usernames are applied to vendors' names too."""
    station.set_alias(ra_namegenerationpostfix="_IPSEC")
    device = cmp_credential(vendor_pki.device("SN-1"))
    key = make_key("p256")
    asked = template(key, "CN=SN-1")
    assert_says(await station.ask(key, asked, signer=device), "does not belong to user")
    entity(station.ejbca, "SN-1_IPSEC", subject_der=from_rfc4514("CN=SN-1,OU=IPsec"))
    assert (await station.enrol(key, asked, signer=device)).subject == "CN=SN-1,OU=IPsec"


async def test_a_certificate_of_no_configured_vendor(
    station: Requester, foreign_vendor_pki: VendorPKI
) -> None:
    """A foreign vendor is refused; so is the RA itself, which came to the wrong alias."""
    foreign = cmp_credential(foreign_vendor_pki.device("SN-1"))
    for signer in (foreign, station.ra):
        assert_says(await station.ask(signer=signer), "configured Vendor CAs")


async def test_vendor_mode_is_not_in_the_community_edition(
    station: Requester, vendor_pki: VendorPKI
) -> None:
    """There it is refused, and only the log of the server says why."""
    station.ejbca.enterprise = False
    answer = await station.ask(signer=cmp_credential(vendor_pki.device("SN-1")))
    assert_says(answer, "", None)
    assert "not available" in station.ejbca.log[-1]


# --- HTTP -----------------------------------------------------------------------------------------------------


async def test_over_http(gateway: Requester) -> None:
    """An alias is the last part of the URL; "cmp" is taken where there is none."""
    async with serve(gateway.ejbca) as base_url:
        assert base_url.endswith("/ejbca/publicweb/cmp")
        ca = HttpCA(base_url)
        try:
            for path in ("", RA_ALIAS):
                answer = await ca.exchange(
                    await gateway.request(), path=path, deadline_seconds=10.0
                )
                assert PKIMessage.from_der(answer).body_type is BodyType.ip
        finally:
            await ca.close()


@pytest.mark.parametrize(
    "method, alias, content, status",
    [
        ("POST", "unknown", b"0", 404),
        ("GET", RA_ALIAS, None, 405),
        ("POST", "x" * 33, b"0", 400),
        ("POST", RA_ALIAS, bytes(100_001), 400),
        ("POST", RA_ALIAS, bytes(100_000), 200),
    ],
)
async def test_http_statuses(
    ejbca: Ejbca, method: str, alias: str, content: bytes | None, status: int
) -> None:
    """Unknown alias, other methods, long names and long messages are refused without a CMP message."""
    async with serve(ejbca) as base_url, aiohttp.ClientSession() as session:
        response = await session.request(method, f"{base_url}/{alias}", data=content)
        octets = await response.read()
    assert (response.status, bool(octets)) == (status, status == 200)
    assert (response.content_type == "application/pkixcmp") == (status == 200)


async def test_a_post_without_length(ejbca: Ejbca) -> None:
    """Neither Content-Length nor Transfer-Encoding is HTTP 400."""
    async with serve(ejbca) as base_url:
        host, _, path = base_url.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        writer.write(
            f"POST /{path}/cmp HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.split(b" ")[1] == b"400"


async def test_a_runtime_exception_over_http(gateway: Requester) -> None:
    """It is HTTP 500 without a CMP message."""
    await gateway.enrol()
    del gateway.ejbca.database.certificates[1:]
    async with serve(gateway.ejbca) as base_url, aiohttp.ClientSession() as session:
        response = await session.post(
            f"{base_url}/{RA_ALIAS}", data=await gateway.request(body_type=BodyType.kur)
        )
        assert (response.status, await response.read()) == (500, b"")


async def test_a_busy_proxy(gateway: Requester) -> None:
    """HTTP 503 comes with a page; in process it is what the gateway's client makes of it."""
    gateway.ejbca.unavailable = True
    with pytest.raises(UpstreamUnavailable) as caught:
        await gateway.ask()
    assert caught.value.delivered
    async with serve(gateway.ejbca) as base_url, aiohttp.ClientSession() as session:
        response = await session.post(base_url, data=b"0")
        assert (response.status, response.content_type) == (503, "text/html")


# --- a gateway in front ---------------------------------------------------------------------------------------


@pytest.fixture
def world(operator_pki: OperatorPKI, vendor_pki: VendorPKI) -> World:
    return chained(operator_pki, vendor_pki)


def chained(
    operator: OperatorPKI, vendor: VendorPKI, ra_alias: dict[str, Any] | None = None, **options: Any
) -> World:
    """A gateway that is set up for EJBCA, in front of one; its `ca` is not used."""
    clock = ManualClock()
    ejbca = make_ejbca(operator, clock=clock, **(ra_alias or {}))
    return World.make(vendor, operator, clock=clock, upstream=upstream_of(ejbca), **options)


def ejbca_of(world: World) -> Ejbca:
    core = world.endpoint.upstream.core
    assert isinstance(core, Ejbca)
    return core


async def run(world: World, enrollment: Any) -> Done:
    """Go through an operation to its good end."""
    step = await enrollment.receive(await world.post(await enrollment.request()))
    if not isinstance(step, Done):
        step = await enrollment.receive(await world.post(step.der))
    assert isinstance(step, Done)
    return step


@pytest.mark.parametrize("san", [(), ("dns:enb-1.ran.example.net",)])
async def test_a_base_station_enrols_through_the_gateway(
    world: World, san: tuple[str, ...]
) -> None:
    """ir and certConf end well; EJBCA sees the ir alone, with the RA's certificate as the only leaf."""
    done = await run(world, world.enrollment(world.device(), san=san))
    ejbca = ejbca_of(world)
    assert [done.certificate] == ejbca.issued
    (ir,) = ejbca.messages
    assert (ir.body_type, ir.header.pvno) == (BodyType.ir, 2)
    leaves = [der for der in ir.extra_certs if not Certificate.from_der(der).is_ca]
    assert leaves == [world.operator.ra.der]


def renewal_of(world: World, enrolled: Done) -> Enrollment:
    """The kur of a base station that has enrolled before, some time later."""
    world.clock.move(days=300)
    return Enrollment(
        enrolled.identity,
        make_key("p256"),
        RequestOptions(body_type=BodyType.kur),
        clock=world.clock,
        random_octets=secrets.token_bytes,
    )


async def test_a_base_station_renews_through_the_gateway(world: World) -> None:
    """Its kur goes up under the RA, and the new certificate has the old names."""
    enrolled = await run(
        world, world.enrollment(world.device(), san=("dns:enb-1.ran.example.net",))
    )
    done = await run(world, renewal_of(world, enrolled))
    assert done.certificate.subject == enrolled.certificate.subject
    assert done.certificate.subject_alt_name_der == enrolled.certificate.subject_alt_name_der
    assert [item.body_type for item in ejbca_of(world).messages] == [BodyType.ir, BodyType.kur]


async def test_a_kur_passed_on_to_an_alias_in_client_mode(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, world: World
) -> None:
    """EJBCA itself authenticates a kur that goes up as the device signed it."""
    enrolled = await run(world, world.enrollment(world.device()))
    ejbca = ejbca_of(world)
    ejbca.aliases[RA_ALIAS] = ejbca.aliases[CLIENT_ALIAS]
    upstream = changed(world.endpoint.upstream, kur=Variant.forward)
    passing = world.second_gateway(replace(world.endpoint, upstream=upstream))
    renewal = renewal_of(world, enrolled)
    kur = await renewal.request()
    step = await renewal.receive(await world.post(kur, gateway=passing))
    assert isinstance(step, Send)
    done = await renewal.receive(await world.post(step.der, gateway=passing))
    assert isinstance(done, Done)
    assert done.certificate == ejbca.issued[-1]
    assert ejbca.received[-1] == kur


async def test_a_base_station_has_its_certificate_revoked(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """Its rr goes up under the RA, which has the right to revoke."""
    taken = frozenset({BodyType.ir, BodyType.rr})
    world = chained(operator_pki, vendor_pki, endpoint={"body_types": taken})
    done = await run(world, world.enrollment(world.device()))
    certificate = done.certificate
    named = CertTemplate(issuer_der=certificate.issuer_der, serial_number=certificate.serial_number)
    rr = await message(world, done.identity.signing, revocation(named, KEY_COMPROMISE))
    answer = await world.ask(rr)
    assert (answer.body_type, status_of(answer).status) == (BodyType.rp, PKIStatus.accepted)
    assert ejbca_of(world).revoked == [(certificate, KEY_COMPROMISE)]


@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.p10cr])
async def test_cr_and_p10cr_go_through_the_gateway(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, body_type: BodyType
) -> None:
    """Both are granted by the alias in RA mode."""
    world = chained(operator_pki, vendor_pki, endpoint={"body_types": frozenset({body_type})})
    device, key = cmp_credential(world.device()), make_key("p256")
    if body_type is BodyType.cr:
        answer = await world.ask(await request(world, device, key, body_type=body_type))
    else:
        answer = await world.ask(await message(world, device, body(body_type, csr(key))))
    assert answer.body_type is BodyType.cp
    assert issued_in(answer).spki_der == spki(key)


async def test_the_gateway_reaches_ejbca_over_http(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, world: World
) -> None:
    """A base station enrols through HTTP; while EJBCA is away, it is told systemUnavail."""
    ejbca = ejbca_of(world)
    async with serve(ejbca) as base_url:
        ca = HttpCA(f"{base_url}/{RA_ALIAS}")
        upstream = {**upstream_of(ejbca), "core": ca}
        remote = World.make(vendor_pki, operator_pki, clock=world.clock, upstream=upstream)
        try:
            done = await run(remote, remote.enrollment(remote.device()))
            ejbca.unavailable = True
            with pytest.raises(EnrollmentRefused, match="systemUnavail"):
                await run(remote, remote.enrollment(remote.device()))
        finally:
            await ca.close()
    assert ejbca.issued == [done.certificate]


async def test_a_subject_set_by_the_gateway(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """A device that names none gets the one of the gateway's rules, by raVerified."""
    rules = IdentityRules(subject=SubjectRule.derive, subject_template="CN={cn}.ran.example.net")
    world = chained(operator_pki, vendor_pki, identity=rules)
    done = await run(world, world.enrollment(world.device("ENB-7"), subject=None))
    assert done.certificate.subject == "CN=ENB-7.ran.example.net"
    (ir,) = ejbca_of(world).messages
    assert cert_req_messages(ir.body_content)[0].pop == "raVerified"


async def test_a_refusal_of_ejbca_reaches_no_device_as_a_certificate(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """An unprotected rejection, and an error, become a refusal under the RA's protection."""
    world = chained(operator_pki, vendor_pki)
    ejbca = ejbca_of(world)
    ejbca.end_entity_profiles[PROFILE] = EndEntityProfile(7, {"DNSNAME": 1})
    with pytest.raises(EnrollmentRefused) as caught:
        await run(world, world.enrollment(world.device()))
    assert caught.value.authenticated
    ejbca.roles.clear()
    with pytest.raises(EnrollmentRefused) as caught:
        await run(world, world.enrollment(world.device()))
    assert caught.value.authenticated
    assert ejbca.issued == []
