"""Who speaks to the CA: a registered RA, a device with its vendor's certificate, or one with a certificate of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final

from ra_gateway.ca.authorization import (
    ClientMode,
    Mode,
    RegisteredAuthorities,
    require_active,
    require_privilege,
)
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import (
    ALIVE,
    NO_ENTITY,
    Authority,
    EndEntity,
    IssuedCertificate,
    Operation,
)
from ra_gateway.ca.transaction import Received, RequestContext, is_retransmission
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.header_checks import (
    NESTED,
    HeaderRules,
    check_header,
    check_message_time,
    check_version,
)
from ra_gateway.cmp.identity import DeviceValues
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import CanonicalName, canonical
from ra_gateway.cmp.requests import read_revocation
from ra_gateway.cmp.responder import Batch, read_nested
from ra_gateway.cmp.signers import certificate_bag, select_signers
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import (
    AuthenticatedMessage,
    KnownSigner,
    authenticate,
    authenticate_follower,
    authenticate_registered,
    forgiving,
    judged_by,
)
from ra_gateway.errors import (
    AlreadyRevoked,
    CMPError,
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    ProtectionRefused,
    SignerNotTrusted,
)

_TAKEN: Final = frozenset(CERT_RESPONSE_TO) | {BodyType.rr, BodyType.genm, BodyType.certConf}
_OPERATOR_ONLY: Final = frozenset({BodyType.kur, BodyType.rr})
"""What a device may ask with a certificate of ours only (R71)."""

_BATCH_MAX: Final = 64
"""Most messages in a batch; an RA that serves more devices at a time sends another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Authentication:
    """Finds out who sent a message, and refuses whom it cannot believe.

    Args:
        registered: The RAs, by their certificates.
        operator: Its anchors are this PKI's roots.
        rules: How headers are read in each mode.
        client: Client mode; None serves RA mode only.
        authority_names: Canonical subjects of this PKI's CAs, the roots included.
    """

    registered: RegisteredAuthorities
    ledger: Ledger
    operator: TrustDomain
    rules: Mapping[Mode, HeaderRules]
    client: ClientMode | None
    authority_names: frozenset[CanonicalName]
    operator_of: Mapping[str, TrustDomain] = field(init=False)
    """This PKI's domain for devices that came by a vendor whose quirks are forgiven, by its name."""
    loosest: TrustDomain = field(init=False)
    """This PKI's domain, forgiving all that it may forgive any of them: for checks before it is known whose it is."""

    def __post_init__(self) -> None:
        vendors = () if self.client is None else self.client.vendors.values()
        origins = [item for item in vendors if item.forgives]
        operator_of = {item.name: forgiving(self.operator, item) for item in origins}
        loosest = forgiving(self.operator, *origins) if origins else self.operator
        object.__setattr__(self, "operator_of", operator_of)
        object.__setattr__(self, "loosest", loosest)

    async def receive(
        self, message: PKIMessage, mode: Mode, now: datetime, *, in_batch: bool
    ) -> Received | Batch:
        """Return a message with the RA that sent it, out of what it was nested in; or the batch that it is.

        Raises:
            CMPError: It is refused.
        """
        header = message.header
        check_version(header)
        if mode is Mode.client:
            if message.body_type not in _TAKEN or self.client is None:
                raise HeaderRefused(f"{message.body_type.name} is not supported", rule="R9")
            return Received(message)
        if message.body_type not in _TAKEN and message.body_type is not BodyType.nested:
            raise HeaderRefused(f"{message.body_type.name} is not supported", rule="R9")
        registered = await self.registered.certificates()
        ask = partial(
            authenticate_registered,
            message,
            domain=self.operator,
            rules=self.rules[mode],
            now=now,
        )
        try:
            outer = ask(registered=registered.keys())
        except NotAuthorized:
            # A certificate of ours that protects what it says: it may have been registered a moment ago.
            registered = await self.registered.certificates(besides=registered)
            try:
                outer = ask(registered=registered.keys())
            except NotAuthorized as error:
                if message.body_type is BodyType.nested:
                    raise
                raise self._not_registered(ask, error) from error
        self.registered.require_not_revoked(outer.signer)
        authority = registered[outer.signer]
        if message.body_type is not BodyType.nested:
            received = Received(message, authority.name, authority, outer)
            await self._check_time(received, self.rules[mode], now)
            return received
        check_message_time(header, self.rules[mode], now)
        if in_batch:
            raise HeaderRefused("nested inside nested", rule="R128")
        inside = read_nested(outer, batch_max=_BATCH_MAX)
        if isinstance(inside, Batch):
            # Its IDs are the RA's own, and what devices are forgiven is none of its business.
            check_header(header, self.rules[Mode.client], first=True)
            return inside
        inner = inside.message
        check_version(inner.header)
        if inner.body_type not in _TAKEN:
            raise HeaderRefused(f"{inner.body_type.name} inside nested", rule="R9")
        return Received(inner, authority.name, authority, outer, nested=True)

    async def _check_time(self, received: Received, rules: HeaderRules, now: datetime) -> None:
        """Check messageTime, but for what was answered before: nothing comes of it but the same answer.

        Whoever has not got that sends the same octets again, perhaps long after they were made.

        Raises:
            HeaderRefused: It is too far from now, or not there (badTime).
        """
        try:
            check_message_time(received.message.header, rules, now)
        except HeaderRefused:
            stored = await self.ledger.find_operation(
                received.requester, received.transaction_id, now
            )
            if stored is None or not stored.answer:
                raise
            if received.digest not in (stored.request_digest, stored.confirm_digest):
                raise

    def _not_registered(
        self, ask: Callable[..., AuthenticatedMessage], error: NotAuthorized
    ) -> SignerNotTrusted:
        """Return what is told somebody with a certificate of ours that no RA signs with, or a blocked one."""
        blocked = self.registered.blocked
        try:
            signer = ask(registered=blocked.keys()).signer if blocked else None
        except CMPError:
            signer = None
        if signer is None:
            phrase = "The certificate that protects the message is registered for no RA here."
            return SignerNotTrusted(error.detail, rule="R123", phrase=phrase)
        return SignerNotTrusted(
            f"{signer.subject} is registered for the RA {blocked[signer]}, which is blocked",
            rule="R123",
            phrase="The RA that the certificate is registered for is blocked here.",
        )

    async def authenticate_request(self, received: Received, now: datetime) -> RequestContext:
        """Return whom a message speaks for.

        Raises:
            CMPError: It is refused.
        """
        authority, message = received.authority, received.message
        if authority is not None and message.body_type is not BodyType.genm:
            require_privilege(authority, message.body_type)
        if received.outer is not None and not received.nested:
            return RequestContext(received, received.outer)
        domains: tuple[TrustDomain, ...] = (self.operator,)
        rules = self._rules_for(received)
        if authority is not None and message.body_type not in _OPERATOR_ONLY:
            bag = certificate_bag(message, rules)
            vouched = self._vouched_for(authority, *select_signers(message.header, bag, rules))
            domains = (vouched,) if message.body_type is BodyType.ir else (*domains, vouched)
        if self.client is not None and not received.nested:
            vendors = tuple(self.client.vendors.values())
            if message.body_type is BodyType.ir:
                domains = vendors
            elif message.body_type not in _OPERATOR_ONLY:
                domains = (self.loosest, *vendors)
            else:
                domains = (self.loosest,)
        authenticated = authenticate(message, domains, rules, now)
        await self._check_time(received, rules.relaxed_by(authenticated.domain.quirks), now)
        if authenticated.domain.kind is not DomainKind.operator:
            if self._issued_here(authenticated.signer):
                # Whoever else vouches for it: we alone know what became of it.
                raise SignerNotTrusted(
                    f"{authenticated.signer.subject} is of this PKI, and not accepted as a vendor's",
                    rule="R21",
                )
            if authority is not None:
                return RequestContext(received, authenticated)
            assert self.client is not None  # nobody else has vendors
            await self.client.require_not_revoked(
                authenticated.domain.name, authenticated.path, now
            )
            return RequestContext(
                received, authenticated, None, await self._vendor_entity(authenticated)
            )
        try:
            device = await self._living(authenticated.signer, now)
        except SignerNotTrusted as error:
            # What was asked for may itself have revoked the signer, and the answer been lost.
            context = RequestContext(received, authenticated)
            stored = await self.ledger.find_operation(
                received.requester, received.transaction_id, now
            )
            if stored is None or not stored.answer or not is_retransmission(stored, context):
                known = error.fail_info is PKIFailureInfo.certRevoked
                if known and message.body_type is BodyType.rr and _of_itself(authenticated, rules):
                    raise AlreadyRevoked(error.detail, rule="R129") from error
                raise
            return replace(context, answered=stored)
        if received.nested:
            return RequestContext(received, authenticated, device)
        entity = await self.ledger.registry.entity(device.entity)
        domain = self._operator_for(entity)
        authenticated = judged_by(authenticated, domain, rules)
        await self._check_time(received, rules.relaxed_by(domain.quirks), now)
        if message.body_type is not BodyType.rr:  # who is blocked may still give up its certificate
            entity = require_active(entity, authenticated.signer.subject)
        return RequestContext(received, authenticated, device, entity)

    def _rules_for(self, received: Received) -> HeaderRules:
        """Return what is asked of a message that its device signed."""
        if not received.nested:
            return self.rules[Mode.client]
        return self.rules[Mode.ra].relaxed_by(NESTED)

    def _vouched_for(self, authority: Authority, *devices: Certificate) -> TrustDomain:
        """Return trust in vendor certificates that an RA let pass: it knows the vendors, and it nested the message.

        As much is believed of it where it replaces a device's protection by its own. Certificates of our own are
        judged as ever: they may have been revoked.
        """
        others = tuple(item for item in devices if not self._issued_here(item))
        return TrustDomain(
            authority.name,
            DomainKind.vendor,
            others,
            algorithms=self.operator.algorithms,
            quirks=NESTED,
        )

    async def _vendor_entity(self, authenticated: AuthenticatedMessage) -> EndEntity:
        """Return the end entity of a device that speaks with its vendor certificate."""
        assert self.client is not None
        domain = authenticated.domain.name
        identity = DeviceValues(authenticated.signer).identity(self.client.identity_from, domain)
        entity = await self.ledger.registry.entity_by_identity(domain, identity)
        return require_active(entity, f"{identity} of {domain}")

    async def _living(self, signer: Certificate, now: datetime) -> IssuedCertificate:
        """Return the record of a certificate of ours that is still good."""
        issued = await self.ledger.record_of(signer, now)
        if issued is None:
            raise SignerNotTrusted(f"{signer.subject} was not issued by this CA", rule="R21")
        if issued.entity == NO_ENTITY:
            raise NotAuthorized(f"{signer.subject} is an entity of the PKI itself", rule="R36")
        if issued.status not in ALIVE:
            raise SignerNotTrusted(
                f"{signer.subject} is {issued.status}",
                fail_info=PKIFailureInfo.certRevoked,
                rule="R69",
            )
        return issued

    async def authenticate_confirmation(
        self, received: Received, operation: Operation, now: datetime
    ) -> AuthenticatedMessage:
        """Authenticate a certConf by the certificate that protected the request, and by the same way (R35)."""
        if received.by_device != bool(operation.signer_der):
            raise ProtectionRefused(
                "of the request and its certConf one came nested, the other did not", rule="R35"
            )
        if not received.by_device:
            assert received.outer is not None
            return received.outer
        signer = load_certificate(operation.signer_der, loosely=True)  # as it was, at first
        if received.authority is not None and not self._issued_here(signer):
            domain = self._vouched_for(received.authority, signer)
        else:
            domain = await self._domain_of(signer, operation, now)
        rules = self._rules_for(received)
        authenticated = authenticate_follower(
            received.message, (KnownSigner(signer, domain),), rules, now
        )
        await self._check_time(received, rules.relaxed_by(domain.quirks), now)
        return authenticated

    async def require_still_good(
        self,
        received: Received,
        authenticated: AuthenticatedMessage,
        operation: Operation,
        now: datetime,
    ) -> None:
        """Let nobody take a certificate who would not be given one any more: revoked or blocked since it was asked for.

        Raises:
            SignerNotTrusted, NotAuthorized, ServiceFailure.
        """
        signer = authenticated.signer
        if self._issued_here(signer):
            await self._living(signer, now)
        if received.authority is not None:
            return  # it knows the vendors, and who is whose
        if not self._issued_here(signer):
            assert self.client is not None  # nobody else has vendors
            domain = authenticated.domain.name
            await self.client.require_not_revoked(domain, authenticated.path, now)
        issued = await self.ledger.certificate(operation.serial_number, now)
        entity = None if issued is None else await self.ledger.registry.entity(issued.entity)
        require_active(entity, signer.subject)

    async def _domain_of(
        self, signer: Certificate, operation: Operation, now: datetime
    ) -> TrustDomain:
        """Return the trust domain that vouched for the signer of a request."""
        if self._issued_here(signer):
            if not self.operator_of:
                return self.operator
            known = await self.ledger.record_of(signer, now)
            return self._operator_for(
                None if known is None else await self.ledger.registry.entity(known.entity)
            )
        issued = await self.ledger.certificate(operation.serial_number, now)
        entity = await self.ledger.registry.entity(issued.entity) if issued is not None else None
        vendors = self.client.vendors if self.client is not None else {}
        if entity is None or entity.vendor not in vendors:
            raise SignerNotTrusted(f"the domain of {signer.subject} is gone", rule="R21")
        return vendors[entity.vendor]

    def _operator_for(self, entity: EndEntity | None) -> TrustDomain:
        """Return this PKI's domain, forgiving what the vendor of an end entity is forgiven at its enrolment."""
        return self.operator_of.get("" if entity is None else entity.vendor, self.operator)

    def _issued_here(self, certificate: Certificate) -> bool:
        """Tell whether a certificate names one of this PKI's CAs as its issuer, the root included."""
        return canonical(certificate.issuer_der) in self.authority_names


def _of_itself(authenticated: AuthenticatedMessage, rules: HeaderRules) -> bool:
    """Tell whether an rr is about the certificate that it is signed with, which was issued here."""
    wanted = read_revocation(authenticated, rules)
    return wanted.names(authenticated.signer)
