"""Who sent a message: the signer or shared secret behind a request, the transaction behind what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NamedTuple

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.header_checks import HeaderRules, check_message_time
from ra_gateway.cmp.mac import MACCredential, mac_protected, mac_reference, reference_fingerprint
from ra_gateway.cmp.mac_verification import (
    MACAuthenticatedMessage,
    authenticate_by_secret,
)
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import general_names
from ra_gateway.cmp.signers import named_as_signer
from ra_gateway.cmp.trust import DomainKind, SearchBudget
from ra_gateway.cmp.verification import (
    Authenticated,
    AuthenticatedMessage,
    KnownSigner,
    authenticate,
    authenticate_follower,
    authenticate_registered,
    used_quirks,
)
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    ProtectionRefused,
    SignerNotTrusted,
)
from ra_gateway.ra import forgiveness
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint, MACAccess
from ra_gateway.ra.registration import RegistrationAuthorities
from ra_gateway.ra.revocation_policy import check_speaks_for
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import Exchange, Transaction, TransactionKey
from ra_gateway.values import replace

_UNDER_MAC: Final = frozenset({BodyType.ir, BodyType.cr, BodyType.p10cr})
"""Requests that a shared secret may protect (RFC 9483 4.1.5)."""


class Opened(NamedTuple):
    """A message that opens an operation, who sent it, and the key of the transaction that it opens."""

    context: RequestContext
    authenticated: Authenticated
    key: TransactionKey


def _opened(context: RequestContext, authenticated: Authenticated) -> Opened:
    transaction_id = context.message.header.transaction_id or b""
    digest = authenticated.requester.digest
    key = TransactionKey(authenticated.domain.name, digest, transaction_id)
    return Opened(context, authenticated, key)


async def authenticate_request(
    services: Services, context: RequestContext, now: datetime
) -> Opened:
    """Authenticate a message that opens an operation (step 3).

    Raises:
        CMPError: It is not authentic, or not by somebody who may send it.
    """
    endpoint, message = context.endpoint, context.message
    mac = endpoint.mac
    if mac is not None and mac_protected(message):
        if message.body_type in _UNDER_MAC:
            return _opened(*await _authenticate_by_secret(services, context, mac, now))
        raise ProtectionRefused(
            f"a shared secret cannot protect {message.body_type.name}",
            fail_info=PKIFailureInfo.wrongIntegrity,
            rule="R42",
        )
    authenticated = _authenticate_by_signature(endpoint, message, now)
    if endpoint.operator_of and authenticated.domain.kind is not DomainKind.registration_authority:
        authenticated = await forgiveness.settle(services, context, authenticated)
    return _opened(_signed_by(context, authenticated, now), authenticated)


def _authenticate_by_signature(
    endpoint: Endpoint, message: PKIMessage, now: datetime
) -> AuthenticatedMessage:
    """Authenticate a message of another RA, where it says so, or of a device."""
    relays, budget = endpoint.registration_authorities, SearchBudget()
    if relays is not None and relays.protects(message, endpoint.rules):
        try:
            return _authenticate_relay(relays, message, endpoint.rules, now, budget)
        except SignerNotTrusted:
            # A vendor may have given its device the name of an RA, which makes it none.
            if relays.lists(message):
                raise
    domains = endpoint.domains_for[message.body_type]
    return authenticate(message, domains, endpoint.rules, now, budget=budget)


def _authenticate_relay(
    relays: RegistrationAuthorities,
    message: PKIMessage,
    rules: HeaderRules,
    now: datetime,
    budget: SearchBudget | None = None,
) -> AuthenticatedMessage:
    return authenticate_registered(
        message,
        relays.certificates,
        relays.domain,
        rules,
        now,
        by_name=relays.registers,
        budget=budget,
    )


def _signed_by(
    context: RequestContext, authenticated: AuthenticatedMessage, now: datetime
) -> RequestContext:
    """Return the context of a message whose signature was verified."""
    context.report.authenticated = authenticated
    relayed = authenticated.domain.kind is DomainKind.registration_authority
    if not relayed:  # an RA's devices are forgiven by the RA
        _note_quirks(context, authenticated, now)
    return replace(context, relayed=relayed)


def _note_quirks(context: RequestContext, authenticated: Authenticated, now: datetime) -> None:
    first = context.message.body_type in RESPONSE_TO
    used = used_quirks(authenticated, context.endpoint.rules, now, first=first)
    context.report.quirks = tuple(sorted(used))


async def _authenticate_by_secret(
    services: Services, context: RequestContext, mac: MACAccess, now: datetime
) -> tuple[RequestContext, MACAuthenticatedMessage]:
    """Authenticate a message under a MAC; wrong ones are counted, whatever the message."""
    authenticated = authenticate_by_secret(
        context.message,
        await _verified(services, context, mac),
        mac.domain,
        context.endpoint.rules,
        first=context.message.body_type in RESPONSE_TO,
    )
    context.report.authenticated = authenticated
    _note_quirks(context, authenticated, now)
    return replace(context, shared=authenticated.credential), authenticated


async def _verified(services: Services, context: RequestContext, mac: MACAccess) -> MACCredential:
    """Verify the MAC of a message, and remember that its sender can verify one."""
    context.report.mac_checked = True
    credential = await services.derivations.verify(
        context.message, mac, context.peer, by_sender=context.endpoint.rules.lenient
    )
    context.report.shared = credential
    return credential


async def find_shared_secret(services: Services, context: RequestContext) -> None:
    """Verify the MAC of a message that is refused already, by its header or body, and whose MAC was not looked at yet.

    The refusal then has a MAC under the same secret: a device with a shared secret can verify no signature.
    It costs no more than a message that is in order, and wrong MACs are counted likewise.
    """
    mac = context.endpoint.mac
    if mac is not None and not context.report.mac_checked:
        with suppress(CMPError):  # it has been refused already
            if mac_protected(context.message):
                await _verified(services, context, mac)


async def check_status(
    services: Services, context: RequestContext, authenticated: Authenticated, now: datetime
) -> None:
    """Refuse who was good once: a revoked signer, a shared secret whose time is over.

    Raises:
        SignerNotTrusted, StatusUnavailable.
    """
    if isinstance(authenticated, AuthenticatedMessage):
        context.report.notes += await _check_signer(services, context, authenticated, now)
        return
    secret = authenticated.requester
    if secret.expires_at is not None and secret.expires_at <= now:
        raise SignerNotTrusted(
            f"the {secret.label} expired on {secret.expires_at:%Y-%m-%dT%H:%M:%SZ}",
            rule="R22",
            phrase="The shared secret that protects the message has expired.",
        )


async def _check_signer(
    services: Services, context: RequestContext, authenticated: AuthenticatedMessage, now: datetime
) -> tuple[str, ...]:
    relays = context.endpoint.registration_authorities
    listed = context.relayed and relays is not None and authenticated.signer in relays.certificates
    return await services.signer_status.check(authenticated, now, listed=listed)


class Continued(NamedTuple):
    """A message that continues an operation, and the transaction that it continues.

    Args:
        before: The same message, where it came before.
        remembered: Whether the transaction is as this node remembers it, which another one may have changed.
    """

    context: RequestContext
    authenticated: Authenticated
    transaction: Transaction
    before: Exchange | None
    remembered: bool = False


async def find_transaction(services: Services, context: RequestContext) -> Continued:
    """Find the transaction that a message continues, by transactionID and by whose key protects it (step 3).

    Raises:
        CMPError: There is none, or another credential opened it.
    """
    store, message = services.store, context.message
    transaction_id = message.header.transaction_id or b""
    awaited = None
    by_secret = context.endpoint.mac is not None and mac_protected(message)
    if message.body_type is BodyType.certConf and not by_secret:
        awaited = store.awaited(transaction_id)
    if awaited is None:
        return await _find_among(services, context, await store.find(transaction_id))
    try:
        continued = await _find_among(services, context, [awaited])
    except CMPError:
        live = await store.find(transaction_id)
        if live == [awaited]:
            raise
        return await _find_among(services, context, live)
    return continued._replace(remembered=True)


async def _find_among(
    services: Services, context: RequestContext, live: Sequence[Transaction]
) -> Continued:
    endpoint, message = context.endpoint, context.message
    known: dict[bytes, tuple[Transaction, KnownSigner]] = {}
    mac = endpoint.mac
    if mac is not None and live and mac_protected(message):
        return await _find_by_secret(services, context, mac, live)
    for found in live:
        domain = endpoint.domains.get(found.key.domain)
        if found.quirks_of:
            domain = endpoint.domain_of(found.key.domain, found.quirks_of)
        if found.endpoint == endpoint.name and domain is not None:
            certificate = load_certificate(found.signer_der, loosely=True)  # as it was, at first
            relays = endpoint.registration_authorities
            of_relay = relays is not None and relays.domain is domain
            if relays is None or not of_relay or relays.is_known(certificate):
                known[found.key.signer_digest] = (found, KnownSigner(certificate, domain))
    if not known:
        if mac is not None and any(
            item.endpoint == endpoint.name and item.key.domain == mac.domain.name for item in live
        ):
            raise _other_kind("a signature", "a shared secret")
        raise unknown(message)
    now = services.clock()
    signers = [signer for _, signer in known.values()]
    relays = endpoint.registration_authorities
    if (
        relays is not None
        and relays.protects(message, endpoint.rules)
        and not any(named_as_signer(message.header, item.certificate) for item in signers)
    ):
        opened = [transaction for transaction, _ in known.values()]
        authenticated, transaction = _continued_by_relay(context, relays, opened, now)
    else:
        authenticated = authenticate_follower(message, signers, endpoint.rules, now)
        transaction = known[authenticated.signer.digest][0]
    context = _signed_by(context, authenticated, now)
    before = transaction.exchange_for(context.digest)
    if before is None:
        rules = endpoint.rules.relaxed_by(authenticated.domain.quirks)
        check_message_time(message.header, rules, now)
        context.report.notes += await _check_signer(services, context, authenticated, now)
    return Continued(_where_it_went(context, transaction), authenticated, transaction, before)


def unknown(message: PKIMessage) -> HeaderRefused:
    """Return the refusal of a message that continues nothing."""
    return HeaderRefused(
        f"{message.body_type.name} for a transactionID that is not known here", rule="R11"
    )


def _continued_by_relay(
    context: RequestContext,
    relays: RegistrationAuthorities,
    opened: Sequence[Transaction],
    now: datetime,
) -> tuple[AuthenticatedMessage, Transaction]:
    """Authenticate what a registered RA signs in the place of a device whose request it passed on as it was.

    Some RAs do so, as nobody but the device may protect a kur (RFC 9483 5.2.3.2).

    Raises:
        ProtectionRefused: The transaction did not come through it (R35).
        CMPError: As `authenticate_registered`.
    """
    rules = context.endpoint.rules
    authenticated = _authenticate_relay(relays, context.message, rules, now)
    why = "the message is not protected by the credential that opened the transaction"
    for transaction in opened:
        if not transaction.key.speaks_for_many:
            try:
                _check_came_through(context, relays, authenticated, transaction)
                return authenticated, transaction
            except NotAuthorized as error:
                why = f"{why}, and not by an RA that it came through: {error.detail}"
    raise ProtectionRefused(why, rule="R35")


def _check_came_through(
    context: RequestContext,
    relays: RegistrationAuthorities,
    authenticated: AuthenticatedMessage,
    transaction: Transaction,
) -> None:
    """Check that an RA passed on a device's request: it nested it; or it knows the answer, and may ask for its names.

    Raises:
        NotAuthorized: It did not, or may not.
    """
    signer = authenticated.signer
    if transaction.relay_digest:
        if transaction.relay_digest != signer.digest:
            raise NotAuthorized("another RA nested the request")
        return
    polled = transaction.polling
    nonces = {transaction.response_nonce, transaction.polling_nonce, polled and polled.recip_nonce}
    if context.message.header.recip_nonce not in nonces - {b"", None}:
        raise NotAuthorized("recipNonce is not the senderNonce of the answer to the request")
    san = transaction.san or ()
    if transaction.certificate_der:
        san_der = load_certificate(transaction.certificate_der).subject_alt_name_der
        san = () if san_der is None else general_names(san_der)
    identity = relays.rights_of(authenticated.path).identity
    check_speaks_for(signer, identity, transaction.subject_der, san)


async def _find_by_secret(
    services: Services, context: RequestContext, mac: MACAccess, live: Sequence[Transaction]
) -> Continued:
    """Find the transaction that was opened under the same shared secret.

    A secret that expired or was used up meanwhile still does for what was begun with it.
    """
    header = context.message.header
    key = TransactionKey(
        mac.domain.name,
        reference_fingerprint(mac_reference(header, by_sender=context.endpoint.rules.lenient)),
        header.transaction_id or b"",
    )
    for transaction in live:
        if transaction.key == key and transaction.endpoint == context.endpoint.name:
            now = services.clock()
            context, authenticated = await _authenticate_by_secret(services, context, mac, now)
            before = transaction.exchange_for(context.digest)
            if before is None:
                rules = context.endpoint.rules.relaxed_by(mac.domain.quirks)
                check_message_time(header, rules, now)
            context = _where_it_went(context, transaction)
            return Continued(context, authenticated, transaction, before)
    here = [item for item in live if item.endpoint == context.endpoint.name]
    if here and not any(item.key.domain == mac.domain.name for item in here):
        raise _other_kind("a shared secret", "a signature")
    raise ProtectionRefused(
        "the message is not protected by the credential that opened the transaction", rule="R35"
    )


def _other_kind(used: str, opened: str) -> ProtectionRefused:
    """Return the refusal of a message whose protection is of another kind than its transaction's."""
    return ProtectionRefused(
        f"protected by {used}, and {opened} opened the transaction",
        fail_info=PKIFailureInfo.wrongIntegrity,
        rule="R35",
    )


def _where_it_went(context: RequestContext, transaction: Transaction) -> RequestContext:
    """Have a message go where its transaction went; whether that is still possible shows when it has to."""
    if transaction.upstream == context.upstream.name:
        return context
    upstream = context.endpoint.upstreams.get(transaction.upstream)
    return context if upstream is None else context.routed(upstream)
