"""The messages that open an operation: ir, cr, kur, p10cr, rr and genm (steps 3 to 7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import CertId, PKIMessage, cert_id_der, gen_msg_body
from ra_gateway.cmp.names import NULL_DN, directory_name, rfc4514, same_name
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.requests import (
    AuthenticatedRequest,
    AuthenticatedRevocation,
    Possession,
    read_question,
    read_request,
    read_revocation,
    used_in_request,
)
from ra_gateway.cmp.trust import DomainKind
from ra_gateway.cmp.verification import Authenticated, AuthenticatedMessage, check_message_time
from ra_gateway.errors import (
    HeaderRefused,
    NotAuthorized,
    POPRefused,
    ServiceFailure,
    SignerNotTrusted,
    StatusUnavailable,
    TemplateRefused,
    TransactionInUse,
)
from ra_gateway.ra.asking import Asking, lease, may_ask_again
from ra_gateway.ra.authentication import (
    authenticate_request,
    check_status,
    key_of,
    shown_certificate,
)
from ra_gateway.ra.forwarding import message_for_ca
from ra_gateway.ra.information import answered_here
from ra_gateway.ra.node import Node
from ra_gateway.ra.policy import (
    IdentityRules,
    InventoryUse,
    authorize,
    authorize_revocation,
    subject_asked,
    vendor_identity,
    vouched_for,
)
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.routes import POP, Approval, CertConf, RARights, Route, Upstream, Variant
from ra_gateway.ra.transaction import Exchange, State, Transaction
from ra_gateway.ra.walk import Walk


@dataclass(frozen=True, slots=True)
class _Intent:
    """What is to be asked of a CA, decided and not yet stored.

    Args:
        body_der: The body as it is to go up, where it is re-protected.
        held: Whether an operator has to approve it first.
    """

    authenticated: Authenticated
    body_der: bytes
    subject_der: bytes
    public_key_der: bytes = b""
    possession: Possession = Possession.proved
    san: tuple[str, ...] | None = None
    target_der: bytes = b""
    info_type: str = ""
    held: bool = False


class Operations:
    """Opens operations on one node."""

    def __init__(self, node: Node, asking: Asking) -> None:
        self._node = node
        self._asking = asking
        asking.judge_again = self.judge_again

    async def open(self, walk: Walk) -> bytes:
        """Answer an ir, cr, kur, p10cr or rr.

        Raises:
            CMPError: It is refused.
        """
        node = self._node
        now = node.clock()
        authenticated = await authenticate_request(node, walk, now)  # step 3
        intent = await self._intent(walk, authenticated)  # step 4
        key = key_of(authenticated)
        try:
            rules = walk.endpoint.rules.relaxed_by(authenticated.domain.quirks)
            check_message_time(walk.message.header, rules, now)
            await check_status(node, walk, authenticated, now)
        except (HeaderRefused, SignerNotTrusted, StatusUnavailable) as error:
            # A late repeat is still a repeat: the device may have been without power for an hour, and
            # its certificate may have been superseded and revoked by what it got.
            live = await node.store.load(key)
            if live is None or live.exchange_for(walk.digest) is None:
                raise
            if live.state is State.REQUESTED and walk.message.body_type is not BodyType.rr:
                # It has got nothing yet: what the CA is asked for now is for a signer that is good now.
                if not isinstance(error, HeaderRefused):
                    raise
                await check_status(node, walk, authenticated, now)
            return await self._asking.repeat(walk, live)
        transaction = await self._prepare(walk, intent, now)  # step 6
        if intent.held:
            return await self._hold(walk, transaction, now)
        repeatable = may_ask_again(walk.upstream, transaction)
        live = await node.store.create(transaction, repeatable=repeatable)  # step 5
        if live is not None:
            return await self._asking.repeat(walk, live)
        return await self._asking.ask(walk, transaction)

    async def inform(self, walk: Walk) -> bytes:
        """Answer a genm, here or by the CA; nothing is stored, and a repeat is simply answered again.

        Raises:
            CMPError: It is refused.
        """
        node = self._node
        now, endpoint, message = node.clock(), walk.endpoint, walk.message
        authenticated = await authenticate_request(node, walk, now)
        question = read_question(_signed(authenticated))
        rules = endpoint.rules.relaxed_by(authenticated.domain.quirks)
        check_message_time(message.header, rules, now)
        await check_status(node, walk, authenticated, now)
        live = await node.store.load(key_of(authenticated))
        if live is not None:
            if live.exchange_for(walk.digest) is None:
                raise TransactionInUse("another request lives under this transactionID", rule="R12")
            return await self._asking.repeat(walk, live)
        own = await answered_here(question, endpoint.information)
        walk.outcome = "informed"
        if own is not None:
            credential = node.credential()
            return await protect(
                node.reply_header(message.header),
                gen_msg_body(BodyType.genp, [own]),
                credential,
                credential.certificates,
            )
        intent = _Intent(
            authenticated, message.body_der, b"", info_type=question.question.info_type
        )
        routes = self._routes(walk, authenticated)
        route = next((item for item in routes if item.takes_subject("")), None)
        walk.routed = _upstream(walk, route, "")
        if not walk.upstream.answers_genm:
            raise HeaderRefused(
                f"genm asks for {intent.info_type}, and {walk.upstream.name} answers none",
                rule="R138",
            )
        return await self._asking.ask(walk, await self._prepare(walk, intent, now), stored=False)

    # --- step 4 -------------------------------------------------------------------------------------------------

    async def _intent(self, walk: Walk, authenticated: Authenticated) -> _Intent:
        if walk.message.body_type is BodyType.rr:
            return await self._revocation(walk, _signed(authenticated))
        _check_vendor_may(walk, authenticated)
        endpoint, rights = walk.endpoint, _rights(walk, authenticated)
        request: AuthenticatedRequest = read_request(
            authenticated,
            endpoint.rules,
            ra_verified_allowed=rights is not None and rights.ra_verified,
            accepted=endpoint.accepted,
        )
        walk.cert_req_id = request.request.cert_req_id
        walk.quirks = tuple(sorted({*walk.quirks, *used_in_request(request, endpoint.rules)}))
        rules = endpoint.identities.get(request.domain.name) if rights is None else rights.identity
        routes = self._routes(walk, authenticated)
        subject = await self._asked(request, rules, routes)
        # One route decides all: where it goes, by which rules, and whether somebody has to approve it.
        route = next((item for item in routes if item.takes_subject(subject)), None)
        walk.routed = upstream = _upstream(walk, route, subject)
        approval = endpoint.approval
        if route is not None:
            approval = approval if route.approval is None else route.approval
            if request.domain.kind is DomainKind.vendor and route.identity is not None:
                rules = route.identity
        entry = await self._entry(request, rules)
        if approval is Approval.unlisted and rules is not None:
            # Whether the device may have it is then for a person to say, not for the list.
            rules = replace(rules, inventory=InventoryUse.optional)
        authorized = authorize(request, rules, entry, may_complete=True)
        possession = request.possession
        variant = upstream.variant_for(
            walk.message.body_type, possession, signed_by_device=walk.signed_by_device
        )
        _check_deliverable(walk, possession)
        if variant is not Variant.reprotect:
            authorized = authorize(request, rules, entry, may_complete=False)
        elif upstream.kur_names_issuer:
            authorized = authorize(request, rules, entry, may_complete=True, names_issuer=True)
        if possession is Possession.proved and (
            upstream.pop is POP.ra_verified and variant is Variant.reprotect
        ):
            authorized = vouched_for(authorized)
        held = approval is Approval.required
        if approval is Approval.unlisted and request.domain.kind is not DomainKind.operator:
            held = not await self._is_listed(request, entry, authorized.subject_der)
        return _Intent(
            authenticated,
            authorized.body_der,
            authorized.subject_der,
            request.requested_key_der or b"",
            possession,
            authorized.san,
            held=held,
        )

    async def _asked(
        self, request: AuthenticatedRequest, rules: IdentityRules | None, routes: list[Route]
    ) -> str:
        """Return the subject that routes are chosen by, which no route has a say in."""
        entry = None
        if any(route.subjects for route in routes):
            try:
                entry = await self._entry(request, rules)
            except NotAuthorized:
                # The rules of a route may do without the list; if not, they will find the same.
                entry = None
        return rfc4514(subject_asked(request, rules, entry))

    async def _entry(
        self, request: AuthenticatedRequest, rules: IdentityRules | None
    ) -> InventoryEntry | None:
        """Return what the inventory has of a vendor's device, None where nobody is to look."""
        is_vendor = request.domain.kind is DomainKind.vendor
        if not is_vendor or rules is None or rules.inventory is InventoryUse.none:
            return None
        identity = vendor_identity(request.domain, rules, request.signer)
        if self._node.inventory is None:
            raise NotAuthorized("no inventory is configured", rule="R145")
        return await self._node.inventory.find(request.domain.name, identity)

    async def _is_listed(
        self, request: AuthenticatedRequest, entry: InventoryEntry | None, subject_der: bytes
    ) -> bool:
        """Tell whether the inventory has a device, which for others than vendors' goes by the subject asked for.

        Raises:
            NotAuthorized: It has, and disables it.
        """
        if request.domain.kind is DomainKind.vendor:
            return entry is not None
        if self._node.inventory is None or subject_der == NULL_DN:
            return False
        found = await self._node.inventory.find(request.domain.name, rfc4514(subject_der))
        if found is not None and not found.enabled:
            raise NotAuthorized(
                f"{rfc4514(subject_der)} is disabled in the inventory for {request.domain.name}",
                rule="R145",
            )
        return found is not None

    async def _revocation(self, walk: Walk, authenticated: AuthenticatedMessage) -> _Intent:
        request: AuthenticatedRevocation = read_revocation(authenticated)
        rights = _rights(walk, authenticated)
        rules = named = None
        if rights is not None and rights.revoke_on_behalf:
            _check_no_authority_named(walk, request)
            rules, now = rights.identity, self._node.clock()
            named = await self._node.signer_status.certificate(
                request.issuer_der, request.serial_number, now
            )
            named = named or shown_certificate(request, walk.endpoint, now)
        authorized = authorize_revocation(request, on_behalf=rules, named=named)
        subject = rfc4514(authorized.subject_der)
        routes = self._routes(walk, authenticated)
        route = next((item for item in routes if item.takes_subject(subject)), None)
        walk.routed = _upstream(walk, route, subject)
        target = CertId(directory_name(request.issuer_der), request.serial_number)
        return _Intent(
            authenticated,
            authorized.body_der,
            authorized.subject_der,
            target_der=cert_id_der(target),
        )

    def _routes(self, walk: Walk, authenticated: Authenticated) -> list[Route]:
        """Return the routes that fit a request, as far as can be told without its subject."""
        profiles = walk.message.header.cert_profiles
        return [
            route
            for route in walk.endpoint.routes
            if route.takes(
                profile=walk.profile,
                cert_profile=profiles[0] if profiles else "",
                domain=authenticated.domain.name,
                body_type=walk.message.body_type,
            )
        ]

    # --- steps 5 and 6 ------------------------------------------------------------------------------------------

    async def _prepare(self, walk: Walk, intent: _Intent, now: datetime) -> Transaction:
        """Build what another node needs to go on, the signed message for the CA included."""
        node, endpoint, message = self._node, walk.endpoint, walk.message
        upstream = walk.upstream
        variant = upstream.variant_for(
            message.body_type, intent.possession, signed_by_device=walk.signed_by_device
        )
        ids = node.fresh_ids() if upstream.map_ids and variant is Variant.reprotect else None
        # What is held is made and signed when it leaves: until then there is nothing that a CA would take.
        upstream_der = b""
        if not intent.held:
            upstream_der = await message_for_ca(
                endpoint,
                upstream,
                message,
                intent.body_der,
                variant,
                node.credential(),
                now,
                ids=ids,
            )
        lifetime = node.lifetime
        if intent.held:
            lifetime = max(lifetime, timedelta(seconds=endpoint.approval_seconds))
        return Transaction(
            key=key_of(intent.authenticated),
            state=State.HELD if intent.held else State.REQUESTED,
            version=0,
            body_type=message.body_type,
            endpoint=endpoint.name,
            upstream=upstream.name,
            variant=variant.value,
            signer_der=intent.authenticated.requester.der,
            sender_nonce=message.header.sender_nonce or b"",
            subject_der=intent.subject_der,
            cert_req_id=walk.cert_req_id,
            public_key_der=intent.public_key_der,
            possession=intent.possession.value,
            san=intent.san,
            target_der=intent.target_der,
            info_type=intent.info_type,
            implicit_asked=message.header.implicit_confirm,
            opening=Exchange(walk.digest, upstream_der),
            lease_until=now + lease(upstream),
            created_at=now,
            expires_at=now + lifetime,
            unsent=intent.held,
            request_der=message.der if intent.held else b"",
            profile=walk.profile,
            ca_transaction_id=b"" if ids is None else ids.transaction_id,
        )

    async def judge_again(self, walk: Walk, held: Transaction) -> bytes:
        """Judge a request that an operator approved as if it came now, and return the message for the CA.

        Weeks may have passed: its signer may be revoked, its device struck from the inventory, the rules others.

        Raises:
            CMPError: It would not be taken now, or not for what was approved.
        """
        node, message = self._node, PKIMessage.from_der(held.request_der)
        digest, now = message.digest, node.clock()
        again = Walk(
            walk.endpoint,
            message,
            digest,
            "",
            profile=held.profile,
            peer=walk.peer,
            started=walk.started,
        )
        authenticated = await authenticate_request(node, again, now)
        intent = await self._intent(again, authenticated)
        await check_status(node, again, authenticated, now)
        walk.notes += again.notes
        variant = again.upstream.variant_for(
            message.body_type, intent.possession, signed_by_device=again.signed_by_device
        )
        asked = (
            held.key, held.opening.request_digest, held.upstream, held.variant, held.subject_der,
            held.public_key_der, held.san,
        )  # fmt: skip
        allowed = (
            key_of(authenticated), digest, again.upstream.name, variant.value, intent.subject_der,
            intent.public_key_der, intent.san,
        )  # fmt: skip
        if asked != allowed:
            raise NotAuthorized("what was approved is not what the rules give now", rule="R145")
        return await message_for_ca(
            again.endpoint,
            again.upstream,
            message,
            intent.body_der,
            variant,
            node.credential(),
            now,
            ids=node.mapped_ids(held),
        )

    async def _hold(self, walk: Walk, transaction: Transaction, now: datetime) -> bytes:
        """Store a request for an operator to decide on, and tell the device to wait."""
        node = self._node
        if node.approvals is None:
            raise ServiceFailure("approval is configured, but nothing keeps what waits for it")
        live = await node.store.load(transaction.key)
        if live is not None:
            return await self._asking.repeat(walk, live)
        der, nonce = await self._asking.waiting_answer(walk, transaction)
        held = replace(
            transaction,
            opening=replace(transaction.opening, response_der=der, waiting=True),
            polling_nonce=nonce,
            lease_until=now,
        )
        await node.approvals.hold(held.key, held.expires_at)
        live = await node.store.create(held)
        if live is not None:
            return await self._asking.repeat(walk, live)
        walk.outcome = "held"
        walk.notes.append(f"{rfc4514(held.subject_der)} waits for approval")
        return der


def _signed(authenticated: Authenticated) -> AuthenticatedMessage:
    if not isinstance(authenticated, AuthenticatedMessage):
        raise AssertionError("a shared secret protects certificate requests only")
    return authenticated


def _check_deliverable(walk: Walk, possession: Possession) -> None:
    """Refuse what could not be answered at the end of the way (RFC 9483 4.1.6, RFC 4211 4.2).

    Raises:
        TemplateRefused: A key made by the CA, for a requester who has no key to send it under.
        POPRefused: A certificate that is proof of possession, where the CA does not read certConf.
    """
    if possession is Possession.key_generation and not walk.signed_by_device:
        # The CA cannot encrypt for a secret that only the RA knows, and an RA has no business with the key.
        raise TemplateRefused("a key is to be generated, and no device signed for it", rule="R60")
    if possession is Possession.encr_cert and walk.upstream.certconf is not CertConf.forward:
        raise POPRefused(
            f"proof by decryption, and {walk.upstream.name} is not sent certConf", rule="R72"
        )


def _check_vendor_may(walk: Walk, authenticated: Authenticated) -> None:
    """Refuse what a vendor certificate is not good for: by default, all but the first certificate (RFC 9483 4.1.2).

    Raises:
        NotAuthorized: It is a cr or p10cr, and the operator has not allowed it.
    """
    domain, body_type = authenticated.domain, walk.message.body_type
    if domain.kind is DomainKind.vendor and not walk.endpoint.vendor_may(domain, body_type):
        raise NotAuthorized(
            f"{body_type.name} under a certificate of the vendor {domain.name}, whose devices may not send it "
            f"(vendors.{domain.name}.body_types)",
            rule="R71",
        )


def _rights(walk: Walk, authenticated: Authenticated) -> RARights | None:
    """Return what an RA may ask for; None where a device, or a shared secret, asks for itself."""
    relays = walk.endpoint.relay_of(authenticated.domain)
    return None if relays is None else relays.rights_of(_signed(authenticated).signer)


def _check_no_authority_named(walk: Walk, request: AuthenticatedRevocation) -> None:
    """Refuse to have an RA revoke another one, or this one: whoever it may speak for, those are no devices.

    Raises:
        NotAuthorized: It asks for that.
    """
    endpoint = walk.endpoint
    relays = endpoint.registration_authorities
    authorities = {item for upstream in endpoint.upstreams.values() for item in upstream.own()}
    authorities |= frozenset() if relays is None else relays.certificates
    for item in authorities - {request.signer}:
        if item.serial_number == request.serial_number and same_name(
            item.issuer_der, request.issuer_der
        ):
            raise NotAuthorized(
                f"{request.signer.subject} asks for the revocation of {item.subject}, an RA's certificate",
                rule="R130",
            )


def _upstream(walk: Walk, route: Route | None, subject: str) -> Upstream:
    """Return where a request goes that a route takes, or none.

    Raises:
        HeaderRefused: No route fits, and the endpoint has no other way (badRequest).
    """
    if route is not None:
        return route.upstream
    if walk.endpoint.only_routes:
        profiles = ", ".join((walk.profile, *walk.message.header.cert_profiles)).strip(", ")
        raise HeaderRefused(
            f"no route takes {walk.message.body_type.name} of {walk.domain}"
            f"{f' for profile {profiles}' if profiles else ''}{f' and {subject}' if subject else ''}",
            rule="R64",
        )
    return walk.endpoint.upstream
