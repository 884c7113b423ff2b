"""What may be revoked, and ended, for whom: a device its own, an RA what is its devices' (RFC 9483 4.2, 5.3.2).

Pure decisions over values, as those about certificates are (`policy`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import InitVar
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.contradictions import require_consistent
from ra_gateway.cmp.names import NULL_DN, general_names, readable, rfc4514, same_name
from ra_gateway.cmp.requests import REMOVE_FROM_CRL, AuthenticatedRevocation
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.trust import DomainKind
from ra_gateway.errors import NotAuthorized, PKIFailureInfo, RequestRefused
from ra_gateway.ra.patterns import check_allowed
from ra_gateway.ra.policy import IdentityRules

_SEAL: Final = Seal(__name__)


@proof(_SEAL)
class AuthorizedRevocation:
    """An rr that may go to the CA: a device gives up its certificate, or an RA does so for a device.

    Args:
        subject_der: Whose certificate it is; the NULL-DN where only an RA, and the CA, know that.
    """

    request: AuthenticatedRevocation
    subject_der: bytes
    seal: InitVar[Seal]

    @property
    def body_der(self) -> bytes:
        """The body as received."""
        return self.request.authenticated.message.body_der


def authorize_revocation(
    request: AuthenticatedRevocation,
    *,
    on_behalf: IdentityRules | None = None,
    named: Certificate | None = None,
    issuers: Iterable[bytes] = (),
) -> AuthorizedRevocation:
    """Let a device have its own certificate revoked, and no other (RFC 9483 4.2).

    Args:
        on_behalf: Which names an RA may have certificates revoked of (RFC 9483 5.3.2); None if of no others.
        named: The certificate that the rr is about, where that is known.
        issuers: Names of the CAs that are known here.

    Raises:
        NotAuthorized: It names another one, whether there is such a certificate or not.
        RequestRefused: It names an issuer that nobody here is, or says of the certificate what that does not say
            (badCertId).
    """
    own = request.authenticated.signer
    if named is not None:
        require_consistent(request.details, named)
    if request.authenticated.domain.kind is DomainKind.registration_authority:
        if on_behalf is not None:
            _check_names_of(request, named, on_behalf, issuers)
            return AuthorizedRevocation(
                request, NULL_DN if named is None else named.subject_der, _SEAL
            )
        raise NotAuthorized(
            f"{own.subject} may not have others' certificates revoked here (revoke_on_behalf)",
            rule="R130",
        )
    if request.reason == REMOVE_FROM_CRL:
        # One on hold signs nothing, and whoever put it there releases it (RFC 5280 5.3.1).
        raise NotAuthorized(
            f"{own.subject} asks for the release of its own certificate from hold", rule="R130"
        )
    if not request.names(own):
        _check_issuer(request, issuers)
        raise NotAuthorized(
            f"{own.subject} asks for the revocation of another certificate "
            f"(serial number {request.serial_number:x}) than its own",
            rule="R130",
        )
    require_consistent(request.details, own)
    return AuthorizedRevocation(request, own.subject_der, _SEAL)


def _check_issuer(request: AuthenticatedRevocation, issuers: Iterable[bytes]) -> None:
    if not any(same_name(request.issuer_der, issuer_der) for issuer_der in issuers):
        raise RequestRefused(
            f"the certificate to be revoked is of {readable(request.issuer_der)}, no CA that is known here",
            fail_info=PKIFailureInfo.badCertId,
            rule="R131",
        )


def _check_names_of(
    request: AuthenticatedRevocation,
    named: Certificate | None,
    rules: IdentityRules,
    issuers: Iterable[bytes],
) -> None:
    """Refuse to have an RA revoke the certificates of devices that it could not have enrolled."""
    signer = request.authenticated.signer
    if "*" in rules.allowed_subjects:
        return
    if named is None:
        _check_issuer(request, issuers)
        raise NotAuthorized(
            f"{signer.subject} asks for the revocation of a certificate whose names nobody here knows; "
            "it has to come along in extraCerts",
            rule="R130",
        )
    names_der = named.subject_alt_name_der
    names = () if names_der is None else general_names(names_der)
    check_speaks_for(signer, rules, named.subject_der, names)


def check_speaks_for(
    signer: Certificate, rules: IdentityRules, subject_der: bytes, names: Iterable[str]
) -> None:
    """Refuse to have an RA end what was asked for a device that it could not have asked for.

    Args:
        names: subjectAltName entries of the certificate.

    Raises:
        NotAuthorized: Subject or names are not allowed for it.
    """
    if subject_der != NULL_DN:
        check_allowed(rfc4514(subject_der), rules.allowed_subjects, "subject", signer)
    for name in names:
        check_allowed(name, rules.allowed_sans, "subjectAltName", signer)
