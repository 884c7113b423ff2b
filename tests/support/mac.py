"""Messages under a MAC, computed a second time and straight from the RFCs, and devices with a shared secret."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import CertStatus, cert_confirm_body, cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import cert_request_der
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.mac import MACBounds
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, assemble
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protected_part
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.ra.endpoints import MACAccess
from ra_gateway.stores.secrets import SecretFile
from tests.support import requests
from tests.support.harness import ManualClock, World
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.requests import csr

REFERENCE = "enb-1-ref"


SECRET = "correct horse battery staple"


OTHER = ("enb-2-ref", "another secret of some length")


ONCE = ("once-ref", "a secret good for one thing")


SHA1 = "1.3.14.3.2.26"


SHA256 = "2.16.840.1.101.3.4.2.1"


HMAC_SHA1 = "1.3.6.1.5.5.8.1.2"


HMAC_SHA256 = "1.2.840.113549.2.9"


HMAC_SHA512 = "1.2.840.113549.2.11"


NAMES = {HMAC_SHA1: "sha1", HMAC_SHA256: "sha256", HMAC_SHA512: "sha512"}


def identifier(oid: str, *parameters: bytes) -> bytes:
    return asn1.tlv(0x30, asn1.oid_der(oid), *parameters)


def pbm(
    *,
    salt: bytes = b"0123456789abcdef",
    owf: str = SHA256,
    iterations: int = 500,
    mac: str = HMAC_SHA256,
    owf_parameters: bytes = b"",
    mac_parameters: bytes = b"",
) -> bytes:
    parameters = asn1.tlv(
        0x30,
        asn1.encode(salt),
        identifier(owf, owf_parameters),
        asn1.encode(iterations),
        identifier(mac, mac_parameters),
    )
    return identifier(OID.passwordBasedMac, parameters)


def pbmac1(
    *,
    salt: bytes = b"0123456789abcdef",
    iterations: int = 500,
    key_octets: int | None = 32,
    prf: str | None = HMAC_SHA256,
    mac: str = HMAC_SHA256,
    prf_parameters: bytes = b"\x05\x00",
    mac_parameters: bytes = b"",
) -> bytes:
    length = b"" if key_octets is None else asn1.encode(key_octets)
    derivation = asn1.tlv(
        0x30,
        asn1.encode(salt),
        asn1.encode(iterations),
        length,
        b"" if prf is None else identifier(prf, prf_parameters),
    )
    return identifier(
        OID.pbmac1,
        asn1.tlv(
            0x30, identifier("1.2.840.113549.1.5.12", derivation), identifier(mac, mac_parameters)
        ),
    )


def mac_of(algorithm_der: bytes, secret: str, octets: bytes) -> bytes:
    """The MAC, computed here a second time and straight from the RFCs."""
    found = asn1.decode(structures.AlgorithmIdentifier, algorithm_der)
    content = asn1.raw(found.parameters)
    if found.algorithm.dotted_string == OID.passwordBasedMac:
        p = asn1.decode(structures.PBMParameter, content)
        owf = "sha1" if p.owf.algorithm.dotted_string == SHA1 else "sha256"
        key = secret.encode() + p.salt
        for _ in range(max(1, min(p.iteration_count, 30_000))):
            key = hashlib.new(owf, key).digest()
        name = NAMES[p.mac.algorithm.dotted_string]
    else:
        q = asn1.decode(structures.PBMAC1Params, content)
        assert q.key_derivation_func.parameters is not None
        k = asn1.decode(structures.PBKDF2Params, asn1.raw(q.key_derivation_func.parameters))
        name = NAMES[q.message_auth_scheme.algorithm.dotted_string]
        prf = "sha1" if k.prf is None else NAMES[k.prf.algorithm.dotted_string]
        size = k.key_length or hashlib.new(name).digest_size
        key = hashlib.pbkdf2_hmac(prf, secret.encode(), k.salt, k.iteration_count, size)
    return hmac.new(key, octets, name).digest()


def maced(
    header: PKIHeader, body_der: bytes, secret: str = SECRET, algorithm_der: bytes | None = None
) -> bytes:
    """A message under a MAC."""
    algorithm_der = pbm() if algorithm_der is None else algorithm_der
    header_der = replace(header, protection_alg_der=algorithm_der).to_der()
    return assemble(
        header_der, body_der, mac_of(algorithm_der, secret, protected_part(header_der, body_der))
    )


def sender(name: str) -> bytes:
    return directory_name(from_rfc4514(name))


async def ir(
    world: World,
    *,
    reference: str = REFERENCE,
    secret: str = SECRET,
    algorithm_der: bytes | None = None,
    subject: str | None = requests.SUBJECT,
    body_type: BodyType = BodyType.ir,
    san: tuple[str, ...] = (),
    popo_der: bytes | None = None,
    **header: Any,
) -> bytes:
    """An ir (or another request) under a MAC, in order but for what the arguments say."""
    key = make_key("p256")
    if body_type is BodyType.p10cr:
        body_der = asn1.tlv(0xA0 | BodyType.p10cr, csr(key, subject or ""))
    else:
        request_der = cert_request_der(requests.template(key, subject, san), cert_req_id=0)
        popo = await requests.popo(request_der, key) if popo_der is None else popo_der
        body_der = requests.requests_body(asn1.tlv(0x30, request_der, popo), body_type=body_type)
    usual = PKIHeader(
        sender_der=sender(f"CN={reference}"),
        sender_kid=reference.encode(),
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=secrets.token_bytes(16),
        sender_nonce=secrets.token_bytes(16),
    )
    return maced(replace(usual, **header), body_der, secret, algorithm_der)


def cert_conf(
    world: World,
    answer: PKIMessage,
    *,
    reference: str = REFERENCE,
    secret: str = SECRET,
    **header: Any,
) -> bytes:
    """The certConf after an ip, under a MAC; `header` are fields of `PKIHeader`."""
    (response,) = cert_rep_message(answer.body_content).responses
    status = CertStatus(digest("sha256", response.certificate_der or b""), response.cert_req_id)
    usual = PKIHeader(
        sender_der=sender(f"CN={reference}"),
        sender_kid=reference.encode(),
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=answer.header.transaction_id,
        sender_nonce=secrets.token_bytes(16),
        recip_nonce=answer.header.sender_nonce,
    )
    return maced(replace(usual, **header), cert_confirm_body(status), secret)


def assert_maced(
    answer: PKIMessage, request_der: bytes, secret: str = SECRET, reference: str = REFERENCE
) -> None:
    """Assert that an answer has the MAC of its request's secret and kind."""
    request = PKIMessage.from_der(request_der)
    assert answer.header.protection_alg_der == request.header.protection_alg_der
    assert answer.header.sender_kid == reference.encode()
    assert answer.header.sender_name_der == from_rfc4514(f"CN={reference}")
    assert answer.header.recip_nonce == request.header.sender_nonce
    expected = mac_of(
        request.header.protection_alg_der or b"",
        secret,
        protected_part(answer.header_der, answer.body_der),
    )
    assert answer.protection == expected


def open_secrets(csv_path: Path, clock: ManualClock) -> SecretFile:
    return SecretFile(
        csv_path, clock=clock, used_path=csv_path.with_suffix(".used"), lockout_failures=3
    )


def make_world(
    vendor: VendorPKI,
    operator: OperatorPKI,
    csv_path: Path,
    *,
    bounds: MACBounds | None = None,
    strictness: Strictness = Strictness.lenient,
    **endpoint: Any,
) -> World:
    clock = ManualClock()
    access = MACAccess(
        TrustDomain("mac:ran", DomainKind.shared_secrets, ()),
        open_secrets(csv_path, clock),
        bounds or MACBounds(),
    )
    types = frozenset({BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr})
    fields = {"mac": access, "body_types": types, "rules": HeaderRules(strictness), **endpoint}
    return World.make(vendor, operator, clock=clock, endpoint=fields)
