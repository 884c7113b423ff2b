"""Who sent a message: the signer or shared secret behind a request, the transaction behind what follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.mac import mac_parameters, mac_protected, reference_fingerprint
from ra_gateway.cmp.names import same_name
from ra_gateway.cmp.requests import AuthenticatedRevocation
from ra_gateway.cmp.trust import DomainKind, SearchBudget
from ra_gateway.cmp.verification import (
    Authenticated,
    AuthenticatedMessage,
    KnownSigner,
    MACAuthenticatedMessage,
    authenticate,
    authenticate_by_secret,
    authenticate_follower,
    authenticate_registered,
    certificate_bag,
    check_message_time,
    used_quirks,
)
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    PKIFailureInfo,
    ProtectionRefused,
    ServiceFailure,
    SignerNotTrusted,
)
from ra_gateway.ra.node import Node
from ra_gateway.ra.routes import Endpoint, MACAccess
from ra_gateway.ra.transaction import Transaction, TransactionKey
from ra_gateway.ra.walk import Walk

_UNDER_MAC: Final = frozenset({BodyType.ir, BodyType.cr, BodyType.p10cr})
"""Requests that a shared secret may protect (RFC 9483 4.1.5)."""


def key_of(authenticated: Authenticated) -> TransactionKey:
    """Return the key of the transaction that a message opens."""
    return TransactionKey(
        authenticated.domain.name,
        authenticated.requester.digest,
        authenticated.message.header.transaction_id or b"",
    )


async def authenticate_request(node: Node, walk: Walk, now: datetime) -> Authenticated:
    """Authenticate a message that opens an operation (step 3).

    Raises:
        CMPError: It is not authentic, or not by somebody who may send it.
    """
    endpoint, message = walk.endpoint, walk.message
    mac = endpoint.mac
    if mac is not None and mac_protected(message):
        if message.body_type in _UNDER_MAC:
            return await _authenticate_by_secret(walk, mac)
        raise ProtectionRefused(
            f"a shared secret cannot protect {message.body_type.name}",
            fail_info=PKIFailureInfo.wrongIntegrity,
            rule="R42",
        )
    relays = endpoint.registration_authorities
    if relays is not None and relays.protects(message):
        authenticated = authenticate_registered(
            message, relays.certificates, relays.domain, endpoint.rules, now
        )
    else:
        authenticated = authenticate(
            message, endpoint.domains_for(message.body_type), endpoint.rules, now
        )
    _note_signer(walk, authenticated)
    return authenticated


def _note_signer(walk: Walk, authenticated: AuthenticatedMessage) -> None:
    walk.signer, walk.domain = authenticated.signer, authenticated.domain.name
    walk.relayed = authenticated.domain.kind is DomainKind.registration_authority
    if not walk.relayed:  # an RA's devices are forgiven by the RA
        first = walk.message.body_type in RESPONSE_TO
        used = used_quirks(authenticated, walk.endpoint.rules, first=first)
        walk.quirks = tuple(sorted(used))


async def _authenticate_by_secret(walk: Walk, mac: MACAccess) -> MACAuthenticatedMessage:
    """Authenticate a message under a MAC; wrong ones are counted, whatever the message."""
    message = walk.message
    header = message.header
    parameters = mac_parameters(header.protection_alg_der or b"", mac.bounds)
    reference = header.sender_kid or b""
    secret = await mac.secrets.find(reference, walk.peer)
    # Only for whom there is a secret, and not on the event loop: it takes as long as the message says.
    credential = None if secret is None else await asyncio.to_thread(parameters.credential, secret)
    try:
        authenticated = authenticate_by_secret(
            message,
            credential,
            mac.domain,
            walk.endpoint.rules,
            first=message.body_type in RESPONSE_TO,
        )
    except ProtectionRefused as error:
        if error.rule == "R41":
            await mac.secrets.failed(reference, walk.peer)
        raise
    walk.shared, walk.domain = authenticated.credential, mac.domain.name
    return authenticated


def shown_certificate(
    request: AuthenticatedRevocation, endpoint: Endpoint, now: datetime
) -> Certificate | None:
    """Return the certificate that an rr names, if it came along in extraCerts and the operator vouches for it."""
    if endpoint.operator is None:
        return None
    bag = certificate_bag(request.message, endpoint.rules)
    budget = (
        SearchBudget()
    )  # of the message: whoever sent it may have sent many of one serial number
    for item in bag:
        if item.serial_number == request.serial_number and same_name(
            item.issuer_der, request.issuer_der
        ):
            try:
                endpoint.operator.find_path(item, bag, now, budget=budget)
            except CMPError:
                continue
            return item
    return None


async def check_status(node: Node, walk: Walk, authenticated: Authenticated, now: datetime) -> None:
    """Refuse who was good once: a revoked signer, a shared secret whose time is over.

    Raises:
        SignerNotTrusted, StatusUnavailable.
    """
    if isinstance(authenticated, AuthenticatedMessage):
        walk.notes += await node.signer_status.check(authenticated, now)
        return
    secret = authenticated.requester
    if secret.expires_at is not None and secret.expires_at <= now:
        raise SignerNotTrusted(
            f"the {secret.label} expired on {secret.expires_at:%Y-%m-%dT%H:%M:%SZ}",
            rule="R22",
            phrase="The shared secret that protects the message has expired.",
        )


async def find_transaction(node: Node, walk: Walk) -> Transaction:
    """Find the transaction that a message continues, by transactionID and by whose key protects it.

    Raises:
        CMPError: There is none, or another credential opened it.
    """
    known: dict[bytes, tuple[Transaction, KnownSigner]] = {}
    live = await node.store.find(walk.message.header.transaction_id or b"")
    mac = walk.endpoint.mac
    if mac is not None and live and mac_protected(walk.message):
        return await _find_by_secret(node, walk, mac, live)
    for found in live:
        domain = walk.endpoint.domain_named(found.key.domain)
        if found.endpoint == walk.endpoint.name and domain is not None:
            certificate = load_certificate(found.signer_der)
            relays = walk.endpoint.relay_of(domain)
            if relays is None or certificate in relays.certificates:
                signer = KnownSigner(certificate, domain)
                known[found.key.signer_digest] = (found, signer)
    if not known:
        raise HeaderRefused(
            f"{walk.message.body_type.name} for a transactionID that is not known here",
            rule="R11",
        )
    now = node.clock()
    authenticated = authenticate_follower(
        walk.message, [signer for _, signer in known.values()], walk.endpoint.rules, now
    )
    _note_signer(walk, authenticated)
    walk.follower = authenticated
    transaction = known[authenticated.signer.digest][0]
    if transaction.exchange_for(walk.digest) is None:
        rules = walk.endpoint.rules.relaxed_by(authenticated.domain.quirks)
        check_message_time(walk.message.header, rules, now)
        walk.notes += await node.signer_status.check(authenticated, now)
    use_upstream_of(walk, transaction)
    return transaction


async def _find_by_secret(
    node: Node, walk: Walk, mac: MACAccess, live: Sequence[Transaction]
) -> Transaction:
    """Find the transaction that was opened under the same shared secret.

    A secret that expired or was used up meanwhile still does for what was begun with it.
    """
    header = walk.message.header
    key = TransactionKey(
        mac.domain.name,
        reference_fingerprint(header.sender_kid or b""),
        header.transaction_id or b"",
    )
    for transaction in live:
        if transaction.key == key and transaction.endpoint == walk.endpoint.name:
            walk.follower = await _authenticate_by_secret(walk, mac)
            if transaction.exchange_for(walk.digest) is None:
                check_message_time(header, walk.endpoint.rules, node.clock())
            use_upstream_of(walk, transaction)
            return transaction
    raise ProtectionRefused(
        "the message is not protected by the credential that opened the transaction", rule="R35"
    )


def use_upstream_of(walk: Walk, transaction: Transaction) -> None:
    """Have a message go where its transaction went; whether that is still possible shows when it has to."""
    walk.routed = walk.endpoint.upstreams.get(transaction.upstream, walk.routed)


def check_same_upstream(walk: Walk, transaction: Transaction) -> None:
    """Refuse to go on with another CA than the one that was asked: it may have issued already.

    Raises:
        ServiceFailure: The configuration has changed.
    """
    if transaction.upstream != walk.upstream.name:
        raise ServiceFailure(
            f"opened with upstream {transaction.upstream}, which this endpoint no longer uses",
            rule="R81",
        )
