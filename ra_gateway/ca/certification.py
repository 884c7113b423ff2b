"""What ir, cr, kur and p10cr get: one certificate each, however often they are retransmitted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa

from ra_gateway.ca.authorization import (
    ClientMode,
    Mode,
    choose_profile,
    entity_template,
    own_template,
    renewal_template,
    require_names,
    require_no_wildcard,
    require_own,
    require_profile,
    require_unprivileged,
)
from ra_gateway.ca.clauses import outlives_2030
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.key_generation import KeyGeneration, key_recipient, seal_certificate
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.profiles import ANY_KEY_USAGES, Profile
from ra_gateway.ca.records import (
    ALIVE,
    CLIENT,
    Authority,
    Intent,
    IssuedCertificate,
    Operation,
    Reenroll,
)
from ra_gateway.ca.tbs import complete
from ra_gateway.ca.transaction import (
    Received,
    RequestContext,
    in_use,
    is_retransmission,
    outcome_of,
    require_retransmission,
)
from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.bodies import CertRepMessage, CertResponse, PKIStatusInfo, cert_rep_body
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus, Possession
from ra_gateway.cmp.crmf import RA_VERIFIED, CertReqMsg, CertTemplate
from ra_gateway.cmp.device_info import device_of
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, confirm_wait_time
from ra_gateway.cmp.names import NULL_DN, canonical, name_of, same_name
from ra_gateway.cmp.requests import AuthenticatedRequest, read_request
from ra_gateway.cmp.x520 import require_certifiable, told_first
from ra_gateway.errors import (
    NotAuthorized,
    PKIFailureInfo,
    POPRefused,
    RequestRefused,
    ServiceFailure,
)
from ra_gateway.events import Outcome
from ra_gateway.keys import spki_der

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")


@dataclass(frozen=True, slots=True)
class IssuancePolicy:
    """What an operator decides about issuing.

    Args:
        reenroll: Whether a device that holds a confirmed certificate may bootstrap again.
        reenroll_window: For how long after its first request an end entity may, under `Reenroll.window`.
        unique_key: Refuse a key that another entity's living certificate has.
        revoke_superseded: Revoke the old certificate when its renewal is confirmed.
    """

    reenroll: Reenroll = Reenroll.allow
    reenroll_window: timedelta = timedelta(hours=24)
    unique_key: bool = True
    revoke_superseded: bool = False


@dataclass(frozen=True, slots=True)
class _Running:
    digest: bytes
    task: asyncio.Task[tuple[Operation, Outcome]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Certification:
    """Answers requests for certificates, once each.

    Args:
        issuer: The active issuing CA.
        issuer_names: Subjects of all issuing CAs: what they issued may be renewed.
        profiles: By name, the default one first.
        renew_as: By which profile certificates are renewed that were issued under another.
        rules: How requests are read in each mode.
        client: Client mode; None serves RA mode only.
        confirm_wait: How long certConf is awaited.
        remember: How long operations are kept.
        ca_pubs, chain: What an ip, and every positive answer, brings besides the certificate; the root is the last.
        key_generation: Makes keys for devices that ask for that; None refuses them.
        nonce: Returns a fresh one.
        sign: Makes a signed answer (DER).
    """

    issuer: Issuer
    issuer_names: Sequence[bytes]
    ledger: Ledger
    profiles: Mapping[str, Profile]
    renew_as: Mapping[str, str]
    rules: Mapping[Mode, HeaderRules]
    client: ClientMode | None
    policy: IssuancePolicy
    confirm_wait: timedelta
    remember: timedelta
    ca_pubs: tuple[bytes, ...]
    chain: tuple[bytes, ...]
    key_generation: KeyGeneration | None
    nonce: Callable[[], bytes]
    sign: Callable[..., Awaitable[bytes]]
    _running: dict[tuple[str, bytes], _Running] = field(default_factory=dict, init=False)

    @property
    def _default_profile(self) -> str:
        return next(iter(self.profiles))

    async def finish(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(
            *(running.task for running in self._running.values()), return_exceptions=True
        )

    async def certify(self, context: RequestContext, now: datetime) -> tuple[Operation, Outcome]:
        """Return the operation with its answer, as stored; a retransmission gets what the first one got.

        Returns:
            It, and whether it was done for this message (issued) or before (replayed).

        Raises:
            CMPError: It is refused.
        """
        # A device's own message never may say raVerified, also where an RA passes it on (R123).
        by_device = context.received.by_device
        rules = self.rules[Mode.ra if context.received.authority else Mode.client]
        made = () if self.key_generation is None else (Possession.key_generation,)
        accepted = frozenset((Possession.encr_cert, *made))
        request = read_request(
            context.authenticated, rules, ra_verified_allowed=not by_device, accepted=accepted
        )
        operation, outcome = await self._once(
            context.received, lambda: self._issue(context, request, now)
        )
        return require_retransmission(operation, context), outcome

    async def _once(
        self, received: Received, work: Callable[[], Coroutine[Any, Any, tuple[Operation, Outcome]]]
    ) -> tuple[Operation, Outcome]:
        """Let retransmissions that arrive while the first is at work wait for its answer."""
        key = (received.requester, received.transaction_id)
        running = self._running.get(key)
        if running is None:
            # A task of its own: a caller that gives up must not leave a certificate half issued.
            running = _Running(received.digest, asyncio.create_task(work()))
            self._running[key] = running
            running.task.add_done_callback(lambda task: self._forget(key, task))
        elif running.digest != received.digest:
            raise in_use()
        else:
            operation, _ = await asyncio.shield(running.task)
            return operation, Outcome.replayed
        return await asyncio.shield(running.task)

    def _forget(
        self, key: tuple[str, bytes], task: asyncio.Task[tuple[Operation, Outcome]]
    ) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever still waits has it; asyncio need not complain that nobody does

    async def _issue(
        self, context: RequestContext, request: AuthenticatedRequest, now: datetime
    ) -> tuple[Operation, Outcome]:
        received, private_key = context.received, None
        header, body_type = received.message.header, received.message.body_type
        if body_type is BodyType.kur or request.possession is Possession.key_generation:
            # Before anything is judged: after the renewal a retransmission would be judged by the new certificate.
            # And before a key is made that nobody would get.
            found = await self.ledger.find_operation(
                received.requester, received.transaction_id, now
            )
            if found is not None and (found.answer or not is_retransmission(found, context)):
                return require_retransmission(found, context), Outcome.replayed
        old = None
        if body_type is BodyType.kur:
            old = await self._renewed(request.request, context, now)
        template, profile = self._completed(request.request.template, context, old, now)
        served: frozenset[str] = frozenset()
        if received.authority is not None:
            named = profile.named_attributes
            with told_first(template.subject_der, template.subject_alt_name_der, named):
                served = self._served(received.authority, template, profile)
                if old is not None and old.profile in self.renew_as:
                    served |= {old.profile} if served else served
                if old is None and context.device is None:
                    require_no_wildcard(received.authority, template.subject_alt_name_der)
        known = old or context.device
        require_certifiable(
            template.subject_der or NULL_DN,
            template.subject_alt_name_der,
            named=profile.named_attributes,
            established_der=None if known is None else load_certificate(known.der).subject_der,
            qualified=known is None,
        )
        _require_crl_url(profile, context, old)
        if request.possession is Possession.key_generation:
            private_key = await self._make_key(context, request, template, profile, now)
            template = replace(template, spki_der=spki_der(private_key))
        elif request.possession is Possession.encr_cert:
            _require_encryption_only(template, profile)
        implicit = (
            header.implicit_confirm
            # Until certConf nobody knows that the device has the key.
            and request.possession is not Possession.encr_cert
            and (
                received.authority is not None
                or (self.client is not None and self.client.implicit_confirm)
            )
        )
        operation = Operation(
            requester=received.requester,
            transaction_id=received.transaction_id,
            request_digest=received.digest,
            body_type=body_type,
            cert_req_id=request.request.cert_req_id,
            response_nonce=self.nonce(),
            confirm_by=None if implicit else now.replace(microsecond=0) + self.confirm_wait,
            expires_at=now + self.remember,
            signer_der=context.signer_der,
            old_serial_number=None if old is None else old.serial_number,
        )
        vendor, identity = _device(context, old)
        intent = Intent(
            subject_der=template.subject_der or NULL_DN,
            issuer_id=self.issuer.id,
            profile=profile.name,
            spki_digest=b"",
            entity=context.entity.name if context.entity else old.entity if old else None,
            origin=_origin(context, old),
            vendor=vendor,
            identity=identity,
            on_behalf=received.authority is not None,
            registered_profiles=served,
            enrolls=_enrolls(context),
            reenroll=self.policy.reenroll,
            enroll_until=now + self.policy.reenroll_window,
            unique_key=self.policy.unique_key,
        )

        async def answer(certificate: Certificate, changes: tuple[str, ...]) -> bytes:
            if weak := outlives_2030(certificate):
                log.warning(
                    "ca.outlives_2030",
                    detail=f"{certificate.subject} ends after 2030 with {weak} (TS 33.310 6.1.1)",
                    todo="ask the vendor for ECDSA keys, or RSA of 3072 bits; set ca.rsa_pss for an RSA CA",
                )
            given = await self._given(context, request, certificate, private_key)
            return await self._positive(received, operation, given, changes, now)

        stored = await self.issuer.issue(
            template,
            profile,
            operation,
            intent,
            self.ledger,
            answer,
            now,
            revoke_superseded=self.policy.revoke_superseded,
        )
        return require_retransmission(stored, context), outcome_of(
            operation, stored, Outcome.issued
        )

    def _completed(
        self,
        template: CertTemplate,
        context: RequestContext,
        old: IssuedCertificate | None,
        now: datetime,
    ) -> tuple[CertTemplate, Profile]:
        """Return what is to be certified, with the names of whoever asks where it says none, and under which profile.

        Args:
            old: The certificate that is renewed, if one is.

        Raises:
            CMPError: It may not have that.
        """
        received = context.received
        header = received.message.header
        if old is not None:
            template = renewal_template(template, load_certificate(old.der))
            profile = self._renewal_profile(old)
            self._require_renewable(old, context, profile, now)
        elif context.entity is not None and (
            context.device is None or (context.device.origin == CLIENT and context.entity.vendor)
        ):
            device_der = None if context.device is None else context.device.der
            with told_first(template.subject_der, template.subject_alt_name_der):
                template = entity_template(
                    template,
                    context.entity,
                    None if device_der is None else load_certificate(device_der).subject_der,
                )
            own = context.entity.profile or self._default_profile
            profile = choose_profile(header, (own,), self.profiles)
        elif received.authority is None:
            # What an RA vouched for, under a profile and names of its own, is no more in client mode.
            assert context.device is not None
            with told_first(template.subject_der, template.subject_alt_name_der):
                template = own_template(template, load_certificate(context.device.der))
            recorded = context.device.profile
            own = self.renew_as.get(recorded, recorded) or self._default_profile
            profile = choose_profile(header, (own,), self.profiles)
        else:
            profile = choose_profile(header, received.authority.role.profiles, self.profiles)
            if context.device is not None:
                with told_first(template.subject_der, template.subject_alt_name_der):
                    template = own_template(template, load_certificate(context.device.der))
        template = complete(profile, template)
        require_unprivileged(template, profile)
        return template, profile

    async def _make_key(
        self,
        context: RequestContext,
        request: AuthenticatedRequest,
        template: CertTemplate,
        profile: Profile,
        now: datetime,
    ) -> Any:
        """Make a key for a device that asks for that, can be sent it, and has all else of a certificate in order."""
        assert self.key_generation is not None  # `read_request` accepted it
        if not context.received.by_device:
            # It would be encrypted for the RA, which has no business with it (RFC 9483 5.2.3).
            raise NotAuthorized(
                "a request for key generation that the RA protects; it has to be forwarded as it is, or nested",
                rule="RFC 9483 5.2.3",
            )
        key_recipient(context.authenticated.signer)  # before anything costs anything
        kind = self.key_generation.choose_kind(request.algorithm_hint_der, profile)
        sample = await self.key_generation.sample_key(kind)
        self.issuer.check(replace(template, spki_der=sample), profile, now)
        return await self.key_generation.make_key(kind)

    def _served(
        self, authority: Authority, template: CertTemplate, profile: Profile
    ) -> frozenset[str]:
        """Check the names an RA asks for; return for which profiles it may have what is registered for client mode.

        Raises:
            NotAuthorized: It, or its role, is bound to other names.
        """
        require_names(authority, template.subject_der or NULL_DN, template.subject_alt_name_der)
        if not any((authority.subjects, authority.role.subjects)):
            return frozenset()
        unnamed = {""} if profile.name == self._default_profile else set()
        return frozenset({profile.name, *unnamed})

    async def _renewed(
        self, request: CertReqMsg, context: RequestContext, now: datetime
    ) -> IssuedCertificate:
        """Return the certificate a kur renews: the one named, or that of the name; else the signer's."""
        named, device = request.old_cert_id(), context.device
        old = device
        if named is None and request.pop == RA_VERIFIED:
            # RFC 9483 5.2.3.2: with neither the device's signature nor its word, a name alone decides nothing.
            raise RequestRefused(
                "a kur with raVerified that does not name the old certificate (oldCertID)",
                fail_info=PKIFailureInfo.badCertId,
                rule="R59",
            )
        if named is not None:
            old = await find_certificate(
                self.ledger,
                self.issuer_names,
                name_of(named.issuer_der),
                named.serial_number,
                now,
            )
        elif device is None:
            old = await self._newest(request.template, now)
        if device is not None and (old is None or old.serial_number != device.serial_number):
            raise RequestRefused(
                "oldCertID is not the certificate that protects the message",
                fail_info=PKIFailureInfo.badCertId,
                rule="R68",
            )
        if old is None:
            raise RequestRefused(
                "no such certificate to renew", fail_info=PKIFailureInfo.badCertId, rule="R68"
            )
        return old

    async def _newest(self, template: CertTemplate, now: datetime) -> IssuedCertificate | None:
        """Return the newest certificate of the names in a template that has some."""
        subject_der = template.subject_der or NULL_DN
        san_der = template.subject_alt_name_der
        if not canonical(subject_der) and san_der is None:
            return None
        return await self.ledger.newest_certificate(subject_der, now, san_der=san_der)

    def _renewal_profile(self, old: IssuedCertificate) -> Profile:
        """Return what a renewal is judged by: the profile of the old certificate, or that in its place."""
        name = self.renew_as.get(old.profile, old.profile)
        return self.profiles.get(name) or self.profiles[self._default_profile]

    def _require_renewable(
        self, old: IssuedCertificate, context: RequestContext, profile: Profile, now: datetime
    ) -> None:
        """Refuse a renewal that is not the requester's to ask for, and then one of what is no longer good."""
        authority = context.received.authority
        if authority is not None:
            if not context.received.by_device:
                require_own(authority, old)
            # Of both, if the old one's is no longer configured.
            replaced = old.profile in self.renew_as
            for name in {profile.name if replaced else old.profile or profile.name, profile.name}:
                require_profile(authority, name)
        if old.status not in ALIVE:
            raise RequestRefused(
                f"the certificate to renew is {old.status}",
                fail_info=PKIFailureInfo.certRevoked,
                rule="R69",
            )
        if not load_certificate(old.der).valid_at(now):
            raise RequestRefused(
                "the certificate to renew has expired",
                fail_info=PKIFailureInfo.signerNotTrusted,
                rule="R69",
            )

    async def _given(
        self,
        context: RequestContext,
        request: AuthenticatedRequest,
        certificate: Certificate,
        private_key: Any,
    ) -> CertResponse:
        """Return what a device gets: its certificate, with the key made for it, or for its key alone to open.

        Args:
            private_key: None where the device has its own.
        """
        accepted, cert_req_id = PKIStatusInfo(PKIStatus.accepted), request.request.cert_req_id
        if request.possession is Possession.encr_cert:
            sealed = seal_certificate(certificate)
            return CertResponse(cert_req_id, accepted, encrypted_cert_der=sealed)
        sealed_key = None
        if private_key is not None:
            assert self.key_generation is not None  # it made the key
            recipient = key_recipient(context.authenticated.signer)
            sealed_key = await self.key_generation.seal_key(
                private_key, recipient, pvno=context.received.message.header.pvno
            )
        return CertResponse(cert_req_id, accepted, certificate.der, private_key_der=sealed_key)

    async def _positive(
        self,
        received: Received,
        operation: Operation,
        given: CertResponse,
        changes: tuple[str, ...],
        now: datetime,
    ) -> bytes:
        request = received.message
        if changes:
            text = f"Changed or left out: {', '.join(changes)}."
            given = replace(given, status_info=PKIStatusInfo(PKIStatus.grantedWithMods, (text,)))
        chain = self.chain
        if request.body_type is BodyType.kur and received.authority is None:
            chain = chain[:-1]  # T48: who renews has the root
        body_der = cert_rep_body(
            CERT_RESPONSE_TO[request.body_type],
            CertRepMessage(
                (given,),
                ca_pubs=self.ca_pubs if request.body_type is BodyType.ir else (),
            ),
        )
        return await self.sign(
            request.header,
            body_der,
            now,
            nonce=operation.response_nonce,
            general_info=(
                IMPLICIT_CONFIRM
                if operation.confirm_by is None
                else confirm_wait_time(operation.confirm_by),
            ),
            chain=chain,
        )


async def find_certificate(
    ledger: Ledger,
    issuer_names: Iterable[bytes],
    issuer_der: bytes | None,
    serial_number: int,
    now: datetime,
) -> IssuedCertificate | None:
    """Return the record of the certificate that an issuer and a serial number name, if it is one of ours."""
    if issuer_der is None or not any(same_name(issuer_der, own) for own in issuer_names):
        return None
    found = await ledger.certificate(serial_number, now)
    if found is None or not same_name(load_certificate(found.der).issuer_der, issuer_der):
        return None
    return found


def _require_crl_url(
    profile: Profile, context: RequestContext, old: IssuedCertificate | None
) -> None:
    """Say who has a profile that issues nothing, and which setting gives another (T14)."""
    if not profile.crl_required or profile.crl_urls:
        return
    authority = context.received.authority
    if old is not None:
        whose, other = "the certificate to renew was issued under", "ca.renew_as"
    elif authority is not None:
        role = authority.role.name
        whose = f"{authority.name} (role {role}) asks under"
        other = f"--profile of `ra-gateway ca role add {role}`"
    else:
        whose, other = "the device is registered for", "--profile of `ra-gateway ca entity add`"
    raise ServiceFailure(
        f"{whose} {profile.name}, which demands a CRL distribution point (TS 33.310 6.1.3): set ca.crl_url, "
        f"or another profile by {other}",
        rule="T14",
    )


def _require_encryption_only(template: CertTemplate, profile: Profile) -> None:
    """Refuse an RSA key whose owner shows that it can decrypt, where it would be certified to sign."""
    key = load_public_key(template.spki_der or b"")
    if isinstance(key, rsa.RSAPublicKey) and profile.key_usage & ANY_KEY_USAGES:
        raise POPRefused(
            f"encrCert for an RSA key, which {profile.name} lets sign: it has to sign the request",
            rule="R72",
        )


def _enrolls(context: RequestContext) -> bool:
    """Tell whether a request is a device's first, which `reenroll` is asked about: ir, or by a vendor certificate.

    An RA that signs in its device's place does not say by which certificate the device came: its cr and p10cr may be
    a vendor certificate's as well, and count.
    """
    body_type = context.received.message.body_type
    if body_type is BodyType.ir or not context.received.by_device:
        return body_type is not BodyType.kur
    return context.device is None


def _device(context: RequestContext, old: IssuedCertificate | None) -> tuple[str, str]:
    """Return whose a device is and what its vendor calls it: as the RA says, as registered, or as known before."""
    received, known = context.received, old or context.device
    if not received.by_device and any(said := device_of(received.message.header.general_info)):
        return said
    if context.entity is not None and context.entity.identity:
        return context.entity.vendor, context.entity.identity
    return ("", "") if known is None else (known.vendor, known.identity)


def _origin(context: RequestContext, old: IssuedCertificate | None) -> str:
    """Return who vouched for a device at first: what it gets with its certificate keeps that.

    An RA that speaks for a device vouches for it anew.
    """
    known = old or context.device
    if known is None or not context.received.by_device:
        return context.received.requester
    return known.origin
