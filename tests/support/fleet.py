"""Simulated devices that run whole operations against a CA in the same process."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from ra_gateway.ca.authorization import Mode
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.protection import Credential
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, operator_trust
from tests.support.credentials import cmp_certificate
from tests.support.desk import SUBJECT, Desk


def enrollment(
    desk: Desk,
    credential: Credential,
    private_key: Any,
    *,
    protection_key: Any = None,
    find_fault: Callable[[Certificate], str] = lambda certificate: "",
    **options: Any,
) -> Enrollment:
    """One operation of a device that knows the operator's root; options as of `RequestOptions`."""
    subject = None if options.get("body_type") is BodyType.kur else SUBJECT
    root = cmp_certificate(desk.operator.root.certificate)
    return Enrollment(
        DeviceIdentity(credential, operator_trust(root)),
        private_key,
        RequestOptions(**{"subject": subject, **options}),
        clock=desk.clock,
        random_octets=secrets.token_bytes,
        find_fault=find_fault,
        protection_key=protection_key,
    )


async def operate(desk: Desk, operation: Enrollment, *, nested: bool = False) -> Done:
    """Run an operation to its end, in the desk's mode.

    Args:
        nested: Have the RA pass each message on inside nested.
    """
    der = await operation.request()
    while True:
        sent = await desk.nest(der) if nested else der
        reply = await desk.ca.handle(sent, mode=Mode.ra if nested else desk.mode)
        desk.answers.append(PKIMessage.from_der(reply.der))
        step = await operation.receive(reply.der)
        if isinstance(step, Done):
            return step
        der = step.der
