"""Authentication modules: who sent a message, and what may it do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.mac import (
    MACBounds,
    MACCredential,
    SharedSecret,
    compute_mac,
    mac_parameters,
    mac_protected,
)
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import same_name
from ra_gateway.cmp.protection import protected_part
from ra_gateway.errors import CMPError, PKIFailureInfo
from tests.support.ejbca.configuration import (
    ALWAYS_ALLOWED,
    CA,
    EMPTY,
    ENDUSER,
    KEY_ID,
    NOBODY,
    Role,
    enrol_resources,
)
from tests.support.ejbca.database import EndEntity
from tests.support.ejbca.installation import Installation, Received, affixed, component
from tests.support.ejbca.refusals import Refused, bad_request
from tests.support.ejbca.verifying import verify

END_ENTITY_CERTIFICATE: Final = "EndEntityCertificate"
_REG_TOKEN_OID: Final = "1.3.6.1.5.5.7.5.1.1"
_BOUNDS: Final = MACBounds(min_iterations=1, max_iterations=100_000, hmac_sha1=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a message is from.

    Args:
        role: What it may do.
        signer: None unless it was authenticated by certificate.
        mac: None unless it was authenticated by HMAC.
    """

    role: Role
    signer: Certificate | None = None
    mac: MACCredential | None = None


def authenticate(here: Installation, received: Received) -> Caller:
    """Try the alias's modules in order until one passes.

    Raises:
        Refused: None did; what the last one says.
    """
    alias = received.alias
    modules, parameters = alias.modules, alias.parameters
    if len(modules) != len(parameters):
        raise Refused(
            f"CMP module configuration error: {len(modules)} modules, {len(parameters)} parameters",
            None,
        )
    if alias.vendorcertificatemode and alias.ra_mode:
        raise Refused("Vendor certificate mode cannot be combined with RA mode", None)
    if alias.vendorcertificatemode and not here.enterprise:
        here.log.append("Vendor mode is not available in the Community Edition")
        raise Refused("Authentication failed", None)
    is_update = received.message.body_type is BodyType.kur
    if is_update and END_ENTITY_CERTIFICATE not in modules:
        raise bad_request(f"The {END_ENTITY_CERTIFICATE} authentication module is not configured")
    refusal: Refused | None = None
    for module, parameter in zip(modules, parameters, strict=True):
        try:
            return _module(here, received, module, parameter)
        except Refused as error:
            refusal = error
    assert refusal is not None
    raise refusal


def _module(here: Installation, received: Received, name: str, parameter: str) -> Caller:
    if name == END_ENTITY_CERTIFICATE:
        return _end_entity_certificate(here, received, parameter)
    if name == "HMAC":
        return _hmac(here, received, parameter)
    if name == "RegTokenPwd" and not received.alias.ra_mode:
        return _password(here, received, _reg_token(received))
    if name == "DnPartPwd" and not received.alias.ra_mode:
        found = component(received.subject_der or b"\x30\x00", parameter)
        return _password(here, received, found[0] if found else "")
    raise Refused(f"CMP module configuration error: {name} cannot be used here", None)


# --- passwords ------------------------------------------------------------------------------------------------


def _reg_token(received: Received) -> str:
    if received.asked is None or received.asked.is_pkcs10:
        return ""
    controls = [item for item in received.asked.controls if item.type == _REG_TOKEN_OID]
    return asn1.decode(str, controls[0].value_der) if controls else ""


def _password(here: Installation, received: Received, password: str) -> Caller:
    entity = here.requested_entity(received)
    if entity is None or not password or entity.password != password:
        raise bad_request("The password of the request is not the end entity's")
    return Caller(ALWAYS_ALLOWED)


def _hmac(here: Installation, received: Received, parameter: str) -> Caller:
    message, alias = received.message, received.alias
    if message.protection is None or not mac_protected(message):
        raise bad_request("HMAC: no PKI protection is found, or it is no MAC")
    uses_key_id = KEY_ID in (alias.ra_endentityprofile, alias.ra_certificateprofile)
    if alias.ra_mode and uses_key_id and received.key_id in (EMPTY, ENDUSER):
        raise bad_request(f"KeyId {received.key_id} is not allowed")
    entity = None if alias.ra_mode else here.requested_entity(received)
    secret = parameter if parameter != "-" else "" if entity is None else entity.password
    if not secret:
        raise bad_request("No shared secret is known for the request")
    parameters = mac_parameters(message.header.protection_alg_der or b"", _BOUNDS)
    key = parameters.derive(secret.encode())
    if compute_mac(parameters, key, _protected(message)) != message.protection:
        raise bad_request("The MAC of the message is wrong")
    shared = SharedSecret(message.header.sender_kid or b"", secret.encode(), b"\x30\x00")
    return Caller(ALWAYS_ALLOWED, mac=MACCredential(shared, parameters, key))


def _protected(message: PKIMessage) -> bytes:
    return protected_part(message.header_der, message.body_der)


# --- certificates ---------------------------------------------------------------------------------------------


def _end_entity_certificate(here: Installation, received: Received, parameter: str) -> Caller:
    message, alias = received.message, received.alias
    if message.protection is None:
        raise bad_request("PKI message is not authenticated properly: no PKI protection is found")
    unchecked = alias.ra_endentitycertificate_omitverifications
    if unchecked and not (alias.ra_mode and received.nested):
        raise bad_request(
            "The alias says that omitting some verifications is fine, which needs RA mode and a nested message"
        )
    signer = _last_end_entity(message)
    role = ALWAYS_ALLOWED
    if not unchecked:
        role = (
            _check_administrator(here, received, signer, parameter)
            if alias.ra_mode
            else _check_client(here, received, signer)
        )
    try:
        verify(
            message.header.protection_alg_der or b"",
            signer.public_key,
            message.protection,
            _protected(message),
        )
    except (InvalidSignature, CMPError) as error:
        raise bad_request(f"failed to verify the signature with {signer.subject}") from error
    return Caller(role, signer)


def _extra_certs(message: PKIMessage) -> list[Certificate]:
    try:
        return [Certificate.from_der(der) for der in message.extra_certs]
    except CMPError as error:
        raise bad_request("Error while reading a certificate from the extraCert field") from error


def _last_end_entity(message: PKIMessage) -> Certificate:
    """Return the last certificate that is no CA's: whatever signed, EJBCA takes this for the signer."""
    found = [item for item in _extra_certs(message) if not item.is_ca]
    if not found:
        raise bad_request("Error while reading a certificate from the extraCert field")
    return found[-1]


def _check_stored(here: Installation, signer: Certificate, *, required: bool = True) -> str:
    """Check what the database says of a certificate, and return whose it is."""
    stored = here.database.stored(signer)
    if stored is None:
        if required:
            raise bad_request(
                f"The certificate {signer.subject} could not be found in the database"
            )
        return ""
    if stored.reason is not None:
        raise bad_request(f"The certificate {signer.subject} in extraCert is revoked")
    if not stored.active:
        raise bad_request(f"The certificate {signer.subject} in extraCert is not active")
    return stored.username


def _check_validity(here: Installation, signer: Certificate) -> None:
    now = here.clock()
    if now > signer.not_after:
        raise bad_request(f"The certificate has expired: {signer.subject}")
    if now < signer.not_before:
        raise bad_request(f"The certificate is not yet valid: {signer.subject}")


def _check_path(message: PKIMessage, signer: Certificate, ca: CA | None) -> None:
    """Check that a CA issued the signer's certificate, which the path expects to be the first one."""
    try:
        if ca is None or _extra_certs(message)[0] != signer:
            raise InvalidSignature
        signer.verify_issued_by(ca.certificate)
    except (InvalidSignature, CMPError) as error:
        raise bad_request(f"The certificate chain is invalid: {signer.subject}") from error


# --- RA mode


def _check_administrator(
    here: Installation, received: Received, signer: Certificate, ca_name: str
) -> Role:
    """Check an RA's certificate and its rights, and return these."""
    _check_stored(here, signer, required=here.req_cert_in_db)
    _check_path(received.message, signer, here.cas.get(ca_name))
    _check_validity(here, signer)
    role = here.role_of(signer)
    body_type = received.message.body_type
    if body_type is BodyType.p10cr:
        return role  # EJBCA has no rule here; what the core demands is asked when a certificate is issued
    authorized = role is not NOBODY
    if body_type in (BodyType.ir, BodyType.cr):
        resources = enrolment_resources(here, received)
        authorized = resources is not None and role.allows(*resources)
    elif body_type is BodyType.kur:
        entity = entity_to_update(here, received)
        authorized = role.allows(*entity_resources(here, entity))
        if authorized:
            check_old_certificate(here, entity.subject_der)
    if not authorized:
        raise bad_request(f"{signer.subject} is not an authorized administrator")
    return role


def enrolment_resources(here: Installation, received: Received) -> tuple[str, ...] | None:
    """Return the rights an alias demands of an RA, None if it names a CA or profile that does not exist."""
    ca = here.cas.get(here.ra_ca_name(received))
    profile = here.end_entity_profiles.get(here.ra_profile_name(received))
    certificate_profile = here.certificate_profiles.get(here.ra_certificate_profile_name(received))
    if ca is None or profile is None or certificate_profile is None:
        return None
    available = certificate_profile.available_cas
    if available is not None and here.ra_ca_name(received) not in available:
        return None
    return enrol_resources(ca.number, profile.number)


def entity_resources(here: Installation, entity: EndEntity) -> tuple[str, ...]:
    """Return the rights that the update of an end entity demands: by its own CA and profile, not the alias's."""
    profile = here.end_entity_profiles[entity.end_entity_profile]
    return enrol_resources(here.cas[entity.ca].number, profile.number)


def entity_to_update(here: Installation, received: Received) -> EndEntity:
    """Return the end entity of a kur in RA mode: by the template's subject, and its issuer if there is one.

    Raises:
        Refused: The template has no subject, or not exactly one end entity fits.
    """
    if received.subject_der is None:
        raise bad_request("cannot find a SubjectDN in the request")
    issuer_der = received.asked.template.issuer_der if received.asked else None
    found = [
        entity
        for entity in here.database.with_subject(received.subject_der)
        if issuer_der is None or same_name(here.cas[entity.ca].certificate.subject_der, issuer_der)
    ]
    if len(found) != 1:
        raise bad_request("The request is for a non-existing end entity")
    return found[0]


def check_old_certificate(here: Installation, subject_der: bytes) -> None:
    """Check the newest certificate with a subject; one that is not yet valid passes.

    Raises:
        Refused: It was revoked or has expired.
        LookupError: There is none, which EJBCA does not expect.
    """
    old = here.database.newest(subject_der)
    if old is None:
        raise LookupError("no earlier certificate")
    if old.reason is not None:
        raise bad_request("unable to perform key update: the certificate is revoked")
    if here.clock() > old.certificate.not_after:
        raise bad_request("unable to perform key update: the certificate is expired")


# --- client mode


def _check_client(here: Installation, received: Received, signer: Certificate) -> Role:
    """Check the certificate of a device that talks to EJBCA itself."""
    body_type = received.message.body_type
    if received.alias.vendorcertificatemode and body_type in (BodyType.ir, BodyType.cr):
        _check_vendor(here, received, signer)
        return ALWAYS_ALLOWED
    username = _check_stored(here, signer)
    _check_path(received.message, signer, here.issuer_of(signer))
    _check_validity(here, signer)
    if body_type is BodyType.rr:
        return NOBODY
    if body_type is BodyType.kur:
        return ALWAYS_ALLOWED
    entity = here.requested_entity(received)
    if entity is not None and entity.username != username:
        raise bad_request(f"The certificate does not belong to user {entity.username}")
    return ALWAYS_ALLOWED


def _check_vendor(here: Installation, received: Received, signer: Certificate) -> None:
    alias = received.alias
    vendors = [ca for ca in here.external_cas.values() if ca.number in alias.vendorcaids]
    issuers = [*_extra_certs(received.message)[1:], *(ca.certificate for ca in vendors)]
    anchors = {ca.certificate for ca in vendors}
    if not _leads_to(signer, issuers, anchors):
        raise bad_request(f"{signer.subject} was not issued by any of the configured Vendor CAs")
    _check_validity(here, signer)
    entity = here.requested_entity(received)
    names = component(signer.subject_der, alias.extractusernamecomponent)
    if entity is None or entity.username not in [affixed(alias, name) for name in names]:
        raise bad_request("The vendor's certificate does not belong to user of the request")


def _leads_to(
    certificate: Certificate, issuers: list[Certificate], anchors: set[Certificate]
) -> bool:
    """Tell whether each certificate was issued by a later one, the last of them an anchor."""
    if certificate in anchors:
        return True
    for index, issuer in enumerate(issuers):
        try:
            certificate.verify_issued_by(issuer)
        except (InvalidSignature, CMPError):
            continue
        if same_name(certificate.issuer_der, issuer.subject_der):
            return _leads_to(issuer, issuers[index + 1 :], anchors)
    return False


def updating_entity(here: Installation, signer: Certificate | None) -> EndEntity:
    """Return the end entity of a kur in client mode: by the signer's subject and issuer.

    Raises:
        Refused: There is none.
    """
    if signer is not None:
        for entity in here.database.with_subject(signer.subject_der):
            if same_name(here.cas[entity.ca].certificate.subject_der, signer.issuer_der):
                return entity
    raise Refused("The user for the DN was not found", PKIFailureInfo.badMessageCheck)
