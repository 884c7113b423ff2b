"""An EJBCA that was set up for a gateway as its documentation would have it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.ra.settings import CertConf
from tests.support.ejbca.configuration import (
    CA,
    EMPTY,
    ENDUSER,
    REVOKE_RESOURCE,
    Alias,
    CertificateProfile,
    EndEntityProfile,
    Role,
    enrol_resources,
)
from tests.support.ejbca.database import EndEntity, Status, StoredCertificate
from tests.support.ejbca.installation import component
from tests.support.ejbca.server import DEFAULT_ALIAS, Ejbca
from tests.support.pki import Credential, OperatorPKI, VendorPKI

ISSUING_CA: Final = "IssuingCA"
ROOT_CA: Final = "RootCA"
VENDOR_CA: Final = "VendorRootCA"
PROFILE: Final = "BaseStation"
ROLE: Final = "Gateways"
_PROFILE_NUMBER: Final = 7

RA_ALIAS: Final = DEFAULT_ALIAS
"""The alias in RA mode, which is also the one where no alias is named."""

CLIENT_ALIAS: Final = "client"
"""The alias in client mode: for kur that goes up as the device signed it."""

VENDOR_ALIAS: Final = "vendor"
"""The alias in vendor certificate mode, for devices that talk to EJBCA themselves (Enterprise Edition)."""

RIGHTS: Final = ("enrol", "revoke")


def make_ejbca(
    operator: OperatorPKI,
    ra_credential: Credential | None = None,
    *,
    clock: Callable[[], datetime] | None = None,
    vendor: VendorPKI | None = None,
    rights: Collection[str] = RIGHTS,
    **ra_alias: Any,
) -> Ejbca:
    """Set up an EJBCA with the operator's CAs, a role for the gateway, and aliases in RA and client mode.

    Args:
        ra_credential: The gateway's, issued by the operator's issuing CA; by default the operator's RA.
        vendor: Its root becomes an external CA, of which the vendor alias takes devices.
        rights: Out of `RIGHTS`; what the gateway's role may do.
        ra_alias: Fields of `Alias` that differ in the alias in RA mode.
    """
    ra = Certificate.from_der((ra_credential or operator.ra).der)
    issuing = CA(operator.issuing)
    external = {} if vendor is None else {VENDOR_CA: CA(vendor.root)}
    client = Alias(authenticationmodule="EndEntityCertificate", authenticationparameters="-")
    rules = {
        "enrol": enrol_resources(issuing.number, _PROFILE_NUMBER),
        "revoke": (REVOKE_RESOURCE, f"/ca/{issuing.number}"),
    }
    ejbca = Ejbca(
        cas={ISSUING_CA: issuing, ROOT_CA: CA(operator.root)},
        external_cas=external,
        aliases={
            RA_ALIAS: replace(recommended_alias(issuing), **ra_alias),
            CLIENT_ALIAS: replace(client, allowautomatickeyupdate=True),
            VENDOR_ALIAS: replace(
                client,
                vendorcertificatemode=True,
                vendorcaids=tuple(ca.number for ca in external.values()),
                extractusernamecomponent="CN",
            ),
        },
        roles={
            ROLE: Role(
                frozenset(rule for right in rights for rule in rules[right]),
                frozenset((name, ISSUING_CA) for name in component(ra.subject_der, "CN")),
            )
        },
        certificate_profiles={ENDUSER: CertificateProfile()},
        end_entity_profiles={
            EMPTY: EndEntityProfile(1),
            PROFILE: EndEntityProfile(_PROFILE_NUMBER, default_ca=ISSUING_CA),
        },
        clock=clock or (lambda: datetime.now(UTC)),
    )
    register(ejbca, ra, "ra")
    return ejbca


def upstream_of(ejbca: Ejbca) -> dict[str, Any]:
    """Return the fields of `Upstream` by which a gateway speaks to EJBCA in process, for `World.make`.

    The recipient, which is the issuing CA, and kur under the RA's signature are what a `World` has anyway.
    """
    return {
        "core": ejbca,
        "certconf": CertConf.local,
        "pinned": (ejbca.cas[ISSUING_CA].certificate,),
    }


def recommended_alias(issuing: CA) -> Alias:
    """Return the alias in RA mode that a gateway needs."""
    return Alias(
        operationmode="ra",
        authenticationmodule="EndEntityCertificate",
        authenticationparameters=ISSUING_CA,
        defaultca=issuing.certificate.subject,
        allowraverifypopo=True,
        allowautomatickeyupdate=True,
        ra_caname=ISSUING_CA,
        ra_endentityprofile=PROFILE,
    )


def register(
    ejbca: Ejbca, certificate: Certificate, username: str, *, status: Status = Status.generated
) -> EndEntity:
    """Enter an end entity that got its certificate otherwise than by CMP."""
    entity = EndEntity(
        username, certificate.subject_der, ISSUING_CA, ENDUSER, PROFILE, status=status
    )
    ejbca.database.entities[username] = entity
    ejbca.database.certificates.append(StoredCertificate(certificate, username))
    return entity
