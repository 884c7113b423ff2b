"""The gateway: one message in, one answer out, by ten numbered steps.

     1 decode         bytes -> PKIMessage
     2 header         version, IDs, nonces, time, whether the type is taken here
     3 authenticate   signer, path to a trust domain, proof of possession
     4 authorize      which identity the device may have
     5 open           the transaction is stored; a byte-identical repeat is answered from the store
     6 re-protect     under the RA's signature; the result is part of what step 5 stores
     7 forward        to the CA
     8 check answer   protection, IDs, nonces, key, issuer, subject
     9 advance        compare-and-set in the store; who loses the race answers what the winner stored
    10 relay          the answer, signed by the RA, with the certificates a device needs

Steps 5 and 6 are one: the message for the CA is signed before the transaction is stored, so that whichever
node continues after a crash sends the very same bytes. What follows a request (certConf, pollReq, error)
walks the same steps. genm changes nothing anywhere: it walks them without steps 5 and 9.

What other RAs nested is taken apart before (`nesting`), and each message inside walks the steps for itself.

The steps live in `operations` (3 to 6), `confirming` and `polling` (what follows), `asking` (7 and 9), `verdicts` (8
and 10); `withdrawing` looks after certificates that nobody confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.nesting import Single
from ra_gateway.cmp.replies import Reply, unreadable_reply
from ra_gateway.cmp.verification import NONCE_OCTETS, check_header, check_version
from ra_gateway.errors import CMPError, HeaderRefused, MalformedMessage, ServiceFailure
from ra_gateway.ra.asking import Asking
from ra_gateway.ra.confirming import Confirming
from ra_gateway.ra.nesting import Nesting
from ra_gateway.ra.node import Node
from ra_gateway.ra.operations import Operations
from ra_gateway.ra.polling import Polling
from ra_gateway.ra.refusals import refuse
from ra_gateway.ra.walk import Walk, unreadable_event

OPERATIONS: Final[Mapping[str, frozenset[BodyType]]] = {
    "initialization": frozenset({BodyType.ir}),
    "certification": frozenset({BodyType.cr}),
    "keyupdate": frozenset({BodyType.kur}),
    "pkcs10": frozenset({BodyType.p10cr}),
    "revocation": frozenset({BodyType.rr}),
    "getcacerts": frozenset({BodyType.genm}),
    "getrootupdate": frozenset({BodyType.genm}),
    "getcertreqtemplate": frozenset({BodyType.genm}),
    "getcrls": frozenset({BodyType.genm}),
}
"""Operation labels of RFC 9483 6.1 that name a request taken here; followers may use any of them."""

_FOLLOWERS: Final = frozenset({BodyType.certConf, BodyType.error, BodyType.pollReq})


class Gateway:
    """Answers devices' messages (RFC 9483 5, TS 33.310 9)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        asking = Asking(node)
        self._operations = Operations(node, asking)
        self._confirming = Confirming(node, asking)
        self._polling = Polling(node, asking)
        self._nesting = Nesting(node)

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str = "", operation: str = "", peer: str = ""
    ) -> Reply:
        """Answer one message; whatever happens inside, the answer is a DER PKIMessage.

        Args:
            der: What was received.
            endpoint: Name of the endpoint it was sent to.
            profile: Name out of the path below /p/, "" for none.
            operation: Operation label out of the path, "" for none.
            peer: Where it came from, for the event.
        """
        node = self._node
        started = node.monotonic()
        try:
            message = PKIMessage.from_der(der)  # step 1
        except MalformedMessage as error:
            node.sink(unreadable_event(error, endpoint, peer, self._elapsed_ms(started)))
            random = node.random_octets(2 * NONCE_OCTETS)
            return Reply(
                unreadable_reply(
                    error,
                    transaction_id=random[:NONCE_OCTETS],
                    sender_nonce=random[NONCE_OCTETS:],
                ),
                understood=False,
            )
        walk = Walk(
            node.endpoints[endpoint],
            message,
            message.digest,
            operation,
            profile=profile,
            peer=peer,
            started=started,
        )
        return Reply(await self._handled(walk), understood=True)

    async def _handled(self, walk: Walk) -> bytes:
        """Answer a message, whatever becomes of it, and tell of it."""
        node = self._node
        bug: Exception | None = None
        try:
            if walk.message.body_type is not BodyType.nested:
                response = await self._answer(walk)
            elif isinstance(inside := await self._nesting.unwrap(walk), Single):
                walk = self._nesting.inner(
                    walk, inside.message
                )  # from here on as if it had come plain
                response = await self._answer(walk)
            else:
                response = await self._nesting.answer_batch(walk, inside, self._handled)
        except CMPError as error:
            response = await refuse(node, walk, error)
        except Exception as error:  # an answer always leaves; the event carries the cause
            bug = error
            failure = ServiceFailure(f"{type(error).__name__}: {error}", rule="bug")
            response = await refuse(node, walk, failure)
        node.sink(walk.event(self._elapsed_ms(walk.started), bug))
        return response

    def _elapsed_ms(self, started: float) -> float:
        return (self._node.monotonic() - started) * 1000.0

    async def _answer(self, walk: Walk) -> bytes:
        self._check_type(walk)
        match walk.message.body_type:
            case BodyType.certConf:
                return await self._confirming.confirm(walk)
            case BodyType.error:
                return await self._confirming.give_up(walk)
            case BodyType.pollReq:
                return await self._polling.poll(walk)
            case BodyType.genm:
                return await self._operations.inform(walk)
            case _:
                return await self._operations.open(walk)

    # --- step 2: header ---------------------------------------------------------------------------------------

    def _check_type(self, walk: Walk) -> None:
        """Check version, body type and label, before anything is computed."""
        check_version(walk.message.header)
        body_type = walk.message.body_type
        if body_type not in walk.endpoint.body_types | _FOLLOWERS:
            known = body_type in RESPONSE_TO
            raise HeaderRefused(
                f"{body_type.name} is not {'taken at this endpoint' if known else 'a request served here'}",
                rule="R9" if not known else "R142",
            )
        labelled = OPERATIONS.get(walk.operation)
        if walk.operation and body_type not in _FOLLOWERS and body_type not in (labelled or ()):
            raise HeaderRefused(f"{body_type.name} sent to .../{walk.operation}", rule="R149")
        rules = walk.endpoint.rules.relaxed_by(walk.endpoint.loosest_quirks)
        check_header(walk.message.header, rules, first=body_type in RESPONSE_TO)
