"""Faults of base stations, made on purpose: to see in a lab what a gateway says of them."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta

from ra_gateway.clocks import now
from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.protection import Credential, Signer
from ra_gateway.device.factory import Vendor
from ra_gateway.device.kinds import Fault
from ra_gateway.device.values import RequestOptions


class _Spoilt:
    """Signs something else than it is asked to."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """As the signer's."""
        return self._signer.algorithm

    async def sign(self, octets: bytes) -> bytes:
        """Return a signature that will not verify."""
        return await self._signer.sign(octets + b"\0")


def faulty_credential(credential: Credential, faults: Collection[Fault]) -> Credential:
    """Return a credential with those faults that are a credential's."""
    if Fault.unknown_vendor in faults:
        credential, _ = _unknown_vendor().make_device(f"sim-{secrets.token_hex(4)}")
    if Fault.no_chain in faults:
        credential = replace(credential, chain=())
    if Fault.protection in faults:
        credential = replace(credential, signer=_Spoilt(credential.signer))
    return credential


@functools.cache
def _unknown_vendor() -> Vendor:
    return Vendor.found("Nobody", clock=now)


def faulty_options(options: RequestOptions, faults: Collection[Fault]) -> RequestOptions:
    """Return what is asked for, with those faults that are a request's."""
    return replace(
        options,
        message_time=options.message_time and Fault.no_time not in faults,
        wrong_pop=Fault.pop in faults,
        cert_req_id=7 if Fault.request_id in faults else options.cert_req_id,
    )


def faulty_clock(
    clock: Callable[[], datetime], faults: Collection[Fault]
) -> Callable[[], datetime]:
    """Return a clock, an hour ahead if that is to be."""
    if Fault.clock not in faults:
        return clock
    return lambda: clock() + timedelta(hours=1)


def faulty_octets(faults: Collection[Fault]) -> Callable[[int], bytes]:
    """Return what draws transactionID and nonces."""
    if Fault.short_ids in faults:
        return lambda _: secrets.token_bytes(4)
    return secrets.token_bytes
