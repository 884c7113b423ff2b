"""A gateway behind a gateway: other RAs that a gateway knows, what they nest, and one gateway as the CA of another."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

from ra_gateway.cmp.bodies import nested_body
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import RELAYED
from ra_gateway.cmp.messages import ANYONE, CMP2000, PKIHeader, PKIMessage
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.registration import RegistrationAuthorities
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Receiving, World, make_gateway
from tests.support.pki import CMC_RA, Credential, OperatorPKI, VendorPKI

ALL_TYPES = frozenset(
    {BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr, BodyType.rr, BodyType.genm}
)
ENDPOINT = "ran"


def local_ra(operator: OperatorPKI, name: str = "Local RA") -> Credential:
    """Return the credential of an RA at another site."""
    return operator.issuing.issue(f"CN={name},O={operator.name}", "p256", eku=[CMC_RA])


def registered(
    operator: OperatorPKI, *authorities: Credential, **options: Any
) -> RegistrationAuthorities:
    """Return what an endpoint knows of other RAs; they may do everything unless told otherwise.

    Args:
        options: Fields of `RegistrationAuthorities`.
    """
    domain = TrustDomain(
        "ra:ran",
        DomainKind.registration_authority,
        (cmp_certificate(operator.root.certificate),),
        (cmp_certificate(operator.issuing.certificate),),
        quirks=RELAYED,
        revoked_as="operator",
    )
    usual: dict[str, Any] = {
        "identity": IdentityRules(allowed_subjects=("*",), allowed_sans=("*",)),
        "ra_verified": True,
        "revoke_on_behalf": True,
    }
    certificates = frozenset(cmp_certificate(item.certificate) for item in authorities)
    return RegistrationAuthorities(domain, certificates, **{**usual, **options})


async def nest(world: World, signer: Credential, *inner: bytes, **header: Any) -> bytes:
    """Return a nested around messages; IDs are those of the only message, or fresh ones for several.

    Args:
        header: Fields of `PKIHeader`, or `extra_certs`.
    """
    credential = cmp_credential(signer)
    only = PKIMessage.from_der(inner[0]).header if len(inner) == 1 else None
    usual = PKIHeader(
        pvno=CMP2000,
        sender_der=credential.sender_der,
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=only.transaction_id if only else secrets.token_bytes(16),
        sender_nonce=only.sender_nonce if only else secrets.token_bytes(16),
    )
    certificates = header.pop("extra_certs", credential.certificates)
    return await protect(replace(usual, **header), nested_body(*inner), credential, certificates)


@dataclass(slots=True)
class NextGateway(Receiving):
    """A gateway as the CA of another (`CACore`)."""

    gateway: Gateway
    received: list[bytes] = field(default_factory=list)

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        self.received.append(der)
        return (await self.gateway.handle(der, endpoint=ENDPOINT, peer="192.0.2.1")).der

    async def close(self) -> None:
        return None


@dataclass(slots=True)
class Chain:
    """device -> lower -> link -> upper -> the upper world's CA.

    Args:
        link: What the lower gateway sends the upper one.
        ra: Credential of the lower one.
    """

    lower: World
    link: NextGateway
    upper: World
    ra: CMPCredential

    def gateway_below(self, endpoint: Endpoint) -> Gateway:
        """Return the lower gateway with another endpoint."""
        below = self.lower
        return make_gateway(
            endpoint, below.operator, below.store, below.clock, below.events, credential=self.ra
        )


def make_chain(
    vendor: VendorPKI,
    operator: OperatorPKI,
    *,
    upper: dict[str, Any] | None = None,
    lower: dict[str, Any] | None = None,
    relays: dict[str, Any] | None = None,
) -> Chain:
    """Build two gateways; both know the vendor, and the upper one the lower.

    Args:
        upper, lower: Arguments of `World.make`.
        relays: Fields of `RegistrationAuthorities`.
    """
    credential = local_ra(operator)
    above = World.make(
        vendor,
        operator,
        **_with_types(
            upper, {"registration_authorities": registered(operator, credential, **(relays or {}))}
        ),
    )
    link = NextGateway(above.gateway)
    options = _with_types(lower, {})
    options["upstream"] = {
        "core": link,
        "name": "upper",
        "pinned": (cmp_certificate(operator.ra.certificate),),
        "rr_certificate": True,
        **options.get("upstream", {}),
    }
    below = World.make(vendor, operator, clock=above.clock, **options)
    chain = Chain(below, link, above, cmp_credential(credential))
    below.gateway = chain.gateway_below(below.endpoint)
    return chain


def _with_types(options: dict[str, Any] | None, endpoint: dict[str, Any]) -> dict[str, Any]:
    given = dict(options or {})
    given["endpoint"] = {"body_types": ALL_TYPES, **endpoint, **given.get("endpoint", {})}
    return given
