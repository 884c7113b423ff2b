"""nested: what other RAs pass on under their signature, one message or a batch (RFC 9483 5.2.2).

A message inside is answered as if it had come plain, and authenticated for itself: who signs around it shows that
an RA let it pass, and is no substitute for the protection inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ra_gateway.cmp.messages import PKIMessage, nested_body
from ra_gateway.cmp.nesting import Batch, Single, read_nested
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.replies import unreadable_reply
from ra_gateway.cmp.trust import SearchBudget
from ra_gateway.cmp.verification import (
    NONCE_OCTETS,
    AuthenticatedMessage,
    authenticate,
    authenticate_registered,
    check_message_time,
    check_version,
)
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    SignerNotTrusted,
)
from ra_gateway.ra.node import Node
from ra_gateway.ra.routes import RegistrationAuthorities
from ra_gateway.ra.walk import Walk

LABEL: Final = "nested"
"""Operation label of batches (RFC 9483 6.1); a single message has the label of what is inside."""


@dataclass(frozen=True, slots=True)
class Nesting:
    """Takes nested messages apart, and puts the answers to a batch together, on one node."""

    node: Node

    async def unwrap(self, walk: Walk) -> Single | Batch:
        """Return what is inside a nested message.

        Raises:
            CMPError: It is refused, whatever is inside.
        """
        message = walk.message
        check_version(message.header)
        relays = walk.endpoint.registration_authorities
        if walk.wrapped:
            raise HeaderRefused("nested inside nested", rule="R128")
        if relays is None or not relays.nested:
            raise HeaderRefused("nested is not taken at this endpoint", rule="R9")
        now = self.node.clock()
        authenticated = self._authenticate(walk, relays)
        walk.signer, walk.domain = authenticated.signer, authenticated.domain.name
        rules = walk.endpoint.rules.relaxed_by(authenticated.domain.quirks)
        check_message_time(message.header, rules, now)
        walk.notes += await self.node.signer_status.check(authenticated, now)
        inside = read_nested(authenticated, batch_max=relays.batch_max)
        if walk.operation and (walk.operation == LABEL) is isinstance(inside, Single):
            what = "a single message" if isinstance(inside, Single) else "a batch"
            raise HeaderRefused(f"{what} sent to .../{walk.operation}", rule="R149")
        return inside

    def _authenticate(self, walk: Walk, relays: RegistrationAuthorities) -> AuthenticatedMessage:
        endpoint, message, now = walk.endpoint, walk.message, self.node.clock()
        budget = SearchBudget()
        try:
            return authenticate_registered(
                message, relays.certificates, relays.domain, endpoint.rules, now, budget=budget
            )
        except SignerNotTrusted as error:
            try:
                device = authenticate(message, endpoint.vendors, endpoint.rules, now, budget=budget)
            except CMPError:
                raise error from None
        raise NotAuthorized(f"{device.signer.subject} is a device, and no RA", rule="R123")

    def inner(self, outer: Walk, message: PKIMessage) -> Walk:
        """Return the walk of a message that was inside."""
        assert outer.signer is not None  # `unwrap` came first
        return Walk(
            outer.endpoint,
            message,
            message.digest,
            "" if outer.operation == LABEL else outer.operation,
            profile=outer.profile,
            peer=outer.peer,
            started=outer.started,
            wrapped=True,
            notes=[f"nested by {outer.signer.subject}"],
        )

    async def answer_batch(
        self, outer: Walk, batch: Batch, handled: Callable[[Walk], Awaitable[bytes]]
    ) -> bytes:
        """Answer the messages of a batch, all at the same time, and return the batch of answers in their order.

        Args:
            handled: Answers one message, whatever it is.
        """
        tasks = []
        async with asyncio.TaskGroup() as group:
            for member in batch.members:
                tasks.append(group.create_task(self._answer_member(outer, member, handled)))
                await asyncio.sleep(0)  # others get their turn before the next one begins
        answers = [task.result() for task in tasks]
        outer.outcome = "batched"
        outer.notes.append(f"{len(answers)} messages")
        credential = self.node.credential()
        return await protect(
            self.node.reply_header(outer.message.header),
            nested_body(*answers),
            credential,
            credential.certificates,
        )

    async def _answer_member(
        self,
        outer: Walk,
        member: PKIMessage | None,
        handled: Callable[[Walk], Awaitable[bytes]],
    ) -> bytes:
        if member is not None:
            return await handled(self.inner(outer, member))
        random = self.node.random_octets(2 * NONCE_OCTETS)
        return unreadable_reply(
            MalformedMessage("a member of a batch is no PKIMessage"),
            transaction_id=random[:NONCE_OCTETS],
            sender_nonce=random[NONCE_OCTETS:],
        )
