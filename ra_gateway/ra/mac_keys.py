"""What verifying a MAC may cost: keys are derived for known references alone.

A reference travels in the clear, so that whoever saw one can have keys derived, as dear as the endpoint's bounds allow.
That is done beside the event loop, a few at a time and one for each peer, and not again for what has verified: the
certConf has the parameters of its request (RFC 9810 5.1.3.1).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ra_gateway.cmp.mac import (
    MACCredential,
    MACParameters,
    SharedSecret,
    mac_parameters,
    mac_reference,
)
from ra_gateway.cmp.mac_verification import verify_mac
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import ProtectionRefused
from ra_gateway.peers import network_of
from ra_gateway.ra.endpoints import MACAccess

_AT_ONCE: Final = 2
"""Derivations that run at the same time: the threads are everybody's."""

_MOST_KEPT: Final = 1024
"""Derived keys that are kept, of devices between their request and their certConf: less than 1 MB."""


class Derivations:
    """Derives keys, and keeps those that have verified a message (RFC 9483 4.1.5)."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._turns: dict[bytes, tuple[asyncio.Lock, list[None]]] = {}
        self._kept: OrderedDict[tuple[SharedSecret, bytes], MACCredential] = OrderedDict()

    async def verify(
        self, message: PKIMessage, mac: MACAccess, peer: str, *, by_sender: bool = False
    ) -> MACCredential:
        """Verify the MAC of a message, and return with what; wrong ones are counted.

        Args:
            by_sender: As of `mac_reference`.

        Raises:
            ProtectionRefused: It does not verify, or nobody knows its reference (R41).
            AlgorithmRefused, MalformedMessage: As `mac_parameters`.
        """
        header = message.header
        if message.protection is None:  # before anything is derived for it
            raise ProtectionRefused(
                "only one of protection and protectionAlg is present", rule="R14"
            )
        parameters = mac_parameters(header.protection_alg_der or b"", mac.bounds)
        reference = mac_reference(header, by_sender=by_sender)
        async with self._turn(network_of(peer)):
            secret = await mac.secrets.find(reference, peer)
            credential = None if secret is None else await self._credential(secret, parameters)
            try:
                verified = verify_mac(message, credential)
            except ProtectionRefused as error:
                if error.rule == "R41":
                    await mac.secrets.failed(reference, peer)
                raise
        self._keep(verified)
        return verified

    @asynccontextmanager
    async def _turn(self, network: bytes) -> AsyncIterator[None]:
        """Wait until no other message of a peer is verified: a wrong one is to be counted before the next one."""
        lock, waiting = self._turns.setdefault(network, (asyncio.Lock(), []))
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._turns[network]

    async def _credential(self, secret: SharedSecret, parameters: MACParameters) -> MACCredential:
        """Return what a secret's messages under some parameters are verified with."""
        kept = self._kept.get((secret, parameters.der))
        if kept is not None:
            return kept
        async with self._slots:
            return await asyncio.to_thread(parameters.credential, secret)

    def _keep(self, credential: MACCredential) -> None:
        """Keep what has verified a message: another message with the same parameters follows."""
        key = (credential.secret, credential.parameters.der)
        self._kept[key] = credential
        self._kept.move_to_end(key)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
