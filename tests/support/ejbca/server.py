"""What EJBCA does with each kind of message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevDetails,
    RevRepContent,
    cert_rep_body,
    error_body,
    nested_messages,
    rev_rep_body,
    rev_req_content,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertReqMsg, cert_req_messages, certification_request
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import NULL_DN, directory_name, from_rfc4514, general_names, name_of
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protected_part
from ra_gateway.errors import (
    CMPError,
    PKIFailureInfo,
    UpstreamBroken,
    UpstreamUnavailable,
)
from tests.support.ejbca import answering
from tests.support.ejbca.authentication import (
    Caller,
    authenticate,
    check_old_certificate,
    enrolment_resources,
    entity_to_update,
    updating_entity,
)
from tests.support.ejbca.configuration import CA, REVOKE_RESOURCE, Alias
from tests.support.ejbca.database import EndEntity, Status, StoredCertificate
from tests.support.ejbca.installation import Installation, Received
from tests.support.ejbca.issuing import issue
from tests.support.ejbca.refusals import HTTPRefusal, Refused, bad_request
from tests.support.ejbca.verifying import decoded, possession_proved, verify
from tests.support.harness import Receiving

DEFAULT_ALIAS: Final = "cmp"
MAX_ALIAS_CHARACTERS: Final = 32
MAX_BODY_BYTES: Final = 100_000
MAX_NESTING: Final = 15

BUSY_PAGE: Final = "<html><body><h1>503 Service Unavailable</h1></body></html>"

_SAN: Final = "2.5.29.17"
_REQUESTS: Final = frozenset(CERT_RESPONSE_TO)


class Revocation(NamedTuple):
    """A certificate that was revoked, and its CRLReason."""

    certificate: Certificate
    reason: int


@dataclass(slots=True)
class Ejbca(Installation, Receiving):
    """An EJBCA that speaks CMP, in process as a `CACore` or behind `serve`.

    Args:
        received: Octets of every message that reached an alias.
        issued: Certificates issued by CMP, in order.
        revoked: Certificates revoked by CMP, in order.
    """

    received: list[bytes] = field(default_factory=list)
    issued: list[Certificate] = field(default_factory=list)
    revoked: list[Revocation] = field(default_factory=list)

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Deliver one PKIMessage and return the answer, as `HttpCA` would from a running EJBCA.

        Args:
            path: Name of the alias, "" for "cmp".

        Raises:
            UpstreamUnavailable: HTTP 503.
            UpstreamBroken: Another HTTP status without a CMP message.
        """
        try:
            return self.answer(der, path or DEFAULT_ALIAS)
        except HTTPRefusal as refusal:
            detail = f"HTTP {refusal.status} without a CMP message: {refusal.page!r}"
            if refusal.status == 503:
                raise UpstreamUnavailable(detail, delivered=True) from refusal
            raise UpstreamBroken(detail, rule="R91") from refusal

    async def close(self) -> None:
        """Do nothing: there is nothing to be released."""

    def answer(self, octets: bytes, alias_name: str) -> bytes:
        """Return the answer to what was posted to an alias.

        Raises:
            HTTPRefusal: There is none in CMP.
        """
        if self.unavailable:
            raise HTTPRefusal(503, BUSY_PAGE)
        alias = self.find_alias(alias_name)
        if len(octets) > MAX_BODY_BYTES:
            raise HTTPRefusal(400)
        self.received.append(octets)
        try:
            return self._answer(decoded(octets), alias, depth=0, nested=False)
        except CMPError:
            return answering.unreadable(bad_request("This is not a valid CMP message"))
        except (LookupError, ValueError) as error:
            self.log.append(f"runtime exception: {error}")
            raise HTTPRefusal(500) from error

    def find_alias(self, name: str) -> Alias:
        """Return an alias.

        Raises:
            HTTPRefusal: 400 for an impossible name, 404 for an unknown one.
        """
        if len(name) > MAX_ALIAS_CHARACTERS:
            raise HTTPRefusal(400)
        alias = self.aliases.get(name)
        if alias is None:
            raise HTTPRefusal(404)
        return alias

    # --- dispatch

    def _answer(self, message: PKIMessage, alias: Alias, *, depth: int, nested: bool) -> bytes:
        try:
            if message.body_type in (BodyType.certConf, BodyType.pkiconf):
                return self._confirm(message, alias)
            if message.body_type is BodyType.nested:
                inner = self._unwrap(message, alias, depth)
                return self._answer(inner, alias, depth=depth + 1, nested=True)
            if message.body_type is BodyType.rr:
                return self._revoke(Received(message, alias, None, nested))
            if message.body_type in _REQUESTS:
                return self._certify(Received(message, alias, _first_request(message), nested))
            raise bad_request(f"{message.body_type.name} is not supported")
        except Refused as refusal:
            return self._error(message, refusal)

    def _error(self, request: PKIMessage, refusal: Refused) -> bytes:
        """Answer with an error or a rejection, signed only if it is an error to a request for a known CA."""
        if refusal.in_body:
            asked = _first_request(request)
            return answering.rejection(request, _echoed_id(asked), refusal, self.clock())
        header = answering.header_of(
            request.header,
            sender_der=request.header.recipient_der,
            recipient_der=request.header.sender_der,
            now=self.clock(),
        )
        body_der = error_body(answering.status_of(refusal))
        ca = self.ca_addressed(request.header.recipient_der)
        if ca is None or self.release < 8:
            return answering.unprotected(header, body_der)
        return answering.signed(ca, request.header, header, body_der)

    # --- certConf

    def _confirm(self, message: PKIMessage, alias: Alias) -> bytes:
        """Answer pkiConf to whoever sends whatever in a certConf."""
        header = answering.header_of(
            message.header,
            sender_der=message.header.recipient_der,
            recipient_der=message.header.sender_der,
            now=self.clock(),
        )
        ca = self.ca_addressed(message.header.recipient_der)
        if ca is None and alias.defaultca:
            ca = self.ca_addressed(directory_name(from_rfc4514(alias.defaultca)))
        if ca is None:
            return answering.unprotected(header, PKICONF_BODY)
        return answering.signed(ca, message.header, header, PKICONF_BODY)

    # --- nested

    def _unwrap(self, message: PKIMessage, alias: Alias, depth: int) -> PKIMessage:
        """Verify the outer signature and return the first message inside."""
        if depth >= MAX_NESTING:
            raise bad_request("The message has an unreasonable level of nesting")
        if not alias.ra_mode or not alias.racertificatepath:
            raise bad_request("could not verify the RA: it has no certificate in racertificatepath")
        signed = protected_part(message.header_der, message.body_der)
        for certificate in alias.racertificatepath:
            try:
                verify(
                    message.header.protection_alg_der or b"",
                    certificate.public_key,
                    message.protection or b"",
                    signed,
                )
                break
            except InvalidSignature:
                continue
        else:
            raise bad_request("Verification of the NestedMessageContent failed")
        return PKIMessage.from_der(nested_messages(message.body_content)[0])

    # --- ir, cr, p10cr, kur

    def _certify(self, received: Received) -> bytes:
        caller = authenticate(self, received)
        if received.message.body_type is BodyType.kur:
            entity = self._entity_to_update(received, caller)
        elif received.alias.ra_mode:
            entity = self._entity_for_ra(received, caller)
        else:
            entity = self._registered_entity(received)
        ca = self.cas.get(entity.ca)
        if ca is None:
            raise Refused(f"CA {entity.ca} does not exist", PKIFailureInfo.wrongAuthority)
        if ca.approvals:
            raise Refused("The request waits for approval", PKIFailureInfo.notAuthorized)
        certificate = self._issue(received, entity, ca)
        return self._certified(received, caller, ca, certificate)

    def _entity_for_ra(self, received: Received, caller: Caller) -> EndEntity:
        """Return the end entity that an RA asks for, as it is to be stored."""
        alias = received.alias
        ca_name, profile_name = self.ra_ca_name(received), self.ra_profile_name(received)
        if ca_name not in self.cas:
            raise Refused(f"CA {ca_name} does not exist", PKIFailureInfo.incorrectData)
        profile = self.end_entity_profiles.get(profile_name)
        certificate_profile = self.ra_certificate_profile_name(received)
        if profile is None or certificate_profile not in self.certificate_profiles:
            raise Refused("A profile was not found", PKIFailureInfo.systemUnavail)
        subject_der, san = received.subject_der, _requested_san(received.asked)
        if subject_der is None:
            raise Refused("DN Name can not be null", PKIFailureInfo.incorrectData, in_body=True)
        if violation := profile.violation(subject_der, san):
            raise Refused(violation, PKIFailureInfo.incorrectData, in_body=True)
        resources = enrolment_resources(self, received)
        if resources is None or not caller.role.allows(*resources):
            raise Refused("The administrator is not authorized", PKIFailureInfo.notAuthorized)
        username = self.username_for(alias, subject_der)
        return EndEntity(username, subject_der, ca_name, certificate_profile, profile_name, san)

    def _registered_entity(self, received: Received) -> EndEntity:
        """Return the end entity that a device in client mode asks for, which must be NEW."""
        entity = self.requested_entity(received)
        if entity is None:
            text = "The user of the request was not found"
            raise Refused(text, PKIFailureInfo.badMessageCheck)
        if entity.status is not Status.new:
            raise Refused(f"Got request with status {entity.status}, NEW required", None)
        return entity

    def _entity_to_update(self, received: Received, caller: Caller) -> EndEntity:
        """Return the end entity of a kur, with its status as automatic updates allow."""
        alias = received.alias
        if alias.ra_mode:
            entity = entity_to_update(self, received)
            check_old_certificate(self, entity.subject_der)
        else:
            entity = updating_entity(self, caller.signer)
        if alias.allowautomatickeyupdate:
            entity.status = Status.new
        if entity.status is not Status.new:
            raise Refused(f"Got request with status {entity.status}, NEW required", None)
        old = self.database.newest(entity.subject_der)
        asked_spki_der = received.asked.template.spki_der if received.asked else None
        if (
            not alias.allowupdatewithsamekey
            and old is not None
            and old.certificate.spki_der == asked_spki_der
        ):
            text = "The public key in the KeyUpdateRequest is the same as in the old certificate"
            raise Refused(text, PKIFailureInfo.badMessageCheck)
        return entity

    def _issue(self, received: Received, entity: EndEntity, ca: CA) -> Certificate:
        asked, alias = received.asked, received.alias
        assert asked is not None
        if not possession_proved(asked, ra_verified_allowed=alias.allowraverifypopo):
            raise Refused("Proof of possession failed", PKIFailureInfo.badPOP)
        certificate = issue(
            ca,
            self.certificate_profiles[entity.certificate_profile],
            entity,
            asked.template,
            self.clock(),
            custom_serial_number=alias.ra_allowcustomcertserno,
        )
        entity.status = Status.generated
        self.database.entities[entity.username] = entity
        self.database.certificates.append(StoredCertificate(certificate, entity.username))
        self.issued.append(certificate)
        return certificate

    def _certified(
        self, received: Received, caller: Caller, ca: CA, certificate: Certificate
    ) -> bytes:
        request, alias = received.message, received.alias
        header = answering.header_of(
            request.header,
            sender_der=answering.ca_sender(ca),
            recipient_der=directory_name(certificate.subject_der),
            now=self.clock(),
        )
        ca_pubs = (ca.authority.der,) if alias.response_capubsissuingca else ()
        response = CertResponse(
            _echoed_id(received.asked), PKIStatusInfo(PKIStatus.accepted), certificate.der
        )
        body_der = cert_rep_body(
            CERT_RESPONSE_TO[request.body_type],
            CertRepMessage((response,), ca_pubs + self._certificates(alias.response_capubsca)),
        )
        if alias.responseprotection == "pbe" and caller.mac is not None:
            return answering.under_mac(caller.mac, header, body_der)
        also = self._certificates(alias.response_extracertsca)
        return answering.signed(ca, request.header, header, body_der, also)

    def _certificates(self, numbers: tuple[int, ...]) -> tuple[bytes, ...]:
        return tuple(ca.authority.der for ca in map(self.ca_numbered, numbers) if ca is not None)

    # --- rr

    def _revoke(self, received: Received) -> bytes:
        caller = authenticate(self, received)
        request = received.message
        details = rev_req_content(request.body_content)[0]
        info = self._revocation_status(details, caller)
        name_der = name_of(request.header.recipient_der)
        ca = self.ca_addressed(request.header.recipient_der)
        if name_der in (None, NULL_DN):
            ca = self.cas.get(self.ra_ca_name(received))
        body_der = rev_rep_body(RevRepContent((info,)))
        sender_der = request.header.recipient_der if ca is None else answering.ca_sender(ca)
        if self.reversed_rr_sender:
            sender_der = answering.reversed_name(sender_der)
        header = answering.header_of(
            request.header,
            sender_der=sender_der,
            recipient_der=request.header.sender_der,
            now=self.clock(),
        )
        if ca is None:
            return answering.unprotected(header, body_der)
        return answering.signed(ca, request.header, header, body_der)

    def _revocation_status(self, details: RevDetails, caller: Caller) -> PKIStatusInfo:
        template = details.template
        if template.issuer_der is None or template.serial_number is None:
            return _not_revoked("issuer and serial number are needed", PKIFailureInfo.badRequest)
        stored = self.database.numbered(template.issuer_der, template.serial_number)
        if stored is None:
            return _not_revoked("There is no such certificate", PKIFailureInfo.badCertId)
        if stored.reason is not None:
            return _not_revoked("It is revoked already", PKIFailureInfo.certRevoked)
        issuer = self.ca_addressed(directory_name(template.issuer_der))
        resources = (
            (REVOKE_RESOURCE,) if issuer is None else (REVOKE_RESOURCE, f"/ca/{issuer.number}")
        )
        if not caller.role.allows(*resources):
            return _not_revoked("No right to revoke", PKIFailureInfo.notAuthorized)
        if issuer is not None and issuer.approvals:
            return PKIStatusInfo(PKIStatus.grantedWithMods, ("The request waits for approval",))
        stored.reason = _reason(details)
        self.revoked.append(Revocation(stored.certificate, stored.reason))
        return PKIStatusInfo(PKIStatus.accepted)


def _not_revoked(text: str, fail_info: PKIFailureInfo) -> PKIStatusInfo:
    return PKIStatusInfo(PKIStatus.rejection, (text,), (fail_info,))


def _reason(details: RevDetails) -> int:
    for extension in details.crl_entry_details:
        if extension.oid == OID.reasonCode:
            return asn1.content(asn1.element(extension.value))[0]
    return 0  # unspecified


def _first_request(message: PKIMessage) -> CertReqMsg:
    """Return the first request in a message; EJBCA does not look at others."""
    if message.body_type is BodyType.p10cr:
        return certification_request(message.body_content)
    return cert_req_messages(message.body_content)[0]


def _echoed_id(asked: CertReqMsg | None) -> int:
    return 0 if asked is None or asked.is_pkcs10 else asked.cert_req_id


def _requested_san(asked: CertReqMsg | None) -> tuple[str, ...]:
    extension = None if asked is None else asked.template.extension(_SAN)
    return () if extension is None else general_names(extension.value)
