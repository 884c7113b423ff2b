"""Certificates that nobody confirms: the RA's schedule in tests, and the rr that reach the CA."""

from __future__ import annotations

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.ra.agenda import UnconfirmedCertificates
from ra_gateway.ra.services import Services
from tests.support.harness import World

WAIT_SECONDS = 300


def node_of(world: World) -> Services:
    return world.gateway._services


async def work(world: World, **later: float) -> None:
    """Work through the schedule, after a while."""
    world.clock.move(**later)
    await UnconfirmedCertificates(node_of(world)).work()


def revocations(world: World) -> list[PKIMessage]:
    """The rr that reached the CA."""
    return [message for message in world.ca.messages if message.body_type is BodyType.rr]
