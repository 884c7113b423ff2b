"""Messages under a shared secret: whether the MAC verifies, and who may send them (RFC 9483 4.1.5).

The results are proofs, as those of `verification`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import InitVar
from typing import Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.header_checks import HeaderRules, check_header
from ra_gateway.cmp.mac import MACCredential, SharedSecret, compute_mac
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.names import NULL_DN, same_name
from ra_gateway.cmp.protection import protected_part
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.errors import ProtectionRefused

_SEAL: Final = Seal(__name__)


@proof(_SEAL)
class MACAuthenticatedMessage:
    """A message whose MAC verified with a shared secret: nothing that takes a signer takes it.

    Args:
        domain: Of the endpoint's shared secrets; has no anchors.
        credential: Protects the answers.
    """

    message: PKIMessage
    domain: TrustDomain
    credential: MACCredential
    seal: InitVar[Seal]

    @property
    def requester(self) -> SharedSecret:
        """Who sent it, as of every authenticated message."""
        return self.credential.secret


def verify_mac(message: PKIMessage, credential: MACCredential | None) -> MACCredential:
    """Verify the MAC of a message, and return with what: its sender can verify one, whatever else is wrong with it.

    Args:
        credential: Of the secret that belongs to its senderKID, under the message's own parameters
            (`MACParameters.credential`); None if there is no such secret, which is refused in the same words.

    Raises:
        ProtectionRefused: The MAC does not verify, or nobody knows its reference (R41).
    """
    if message.protection is None:
        raise ProtectionRefused("only one of protection and protectionAlg is present", rule="R14")
    if credential is None:
        raise ProtectionRefused(
            "the MAC does not verify: no usable shared secret has its senderKID", rule="R41"
        )
    parameters = credential.parameters
    if parameters.der != message.header.protection_alg_der:
        raise ProtectionRefused("the key was derived for another protectionAlg", rule="R41")
    octets = protected_part(message.header_der, message.body_der)
    expected = compute_mac(parameters, credential.key, octets)
    if not hmac.compare_digest(expected, message.protection):
        raise ProtectionRefused(f"the MAC does not verify: {credential.secret.label}", rule="R41")
    return credential


def authenticate_by_secret(
    message: PKIMessage,
    credential: MACCredential | None,
    domain: TrustDomain,
    rules: HeaderRules,
    *,
    first: bool,
) -> MACAuthenticatedMessage:
    """Authenticate a message by its MAC (RFC 9483 4.1.5).

    Args:
        credential: As of `verify_mac`.
        domain: Of the endpoint's shared secrets.
        rules: The endpoint's; the domain's quirks are added.
        first: Whether the message opens an operation.

    Raises:
        ProtectionRefused: The MAC does not verify, or nobody knows its reference (R41); sender is another (R45).
        HeaderRefused, MalformedMessage: As `check_header`.
    """
    credential = verify_mac(message, credential)
    _check_mac_sender(message.header, credential, rules)
    check_header(message.header, rules.relaxed_by(domain.quirks), first=first)
    return MACAuthenticatedMessage(message, domain, credential, _SEAL)


def _check_mac_sender(header: PKIHeader, credential: MACCredential, rules: HeaderRules) -> None:
    """Check that sender names the reference: its commonName, to the letter of RFC 9483 3.1.

    Where that is not asked for, the subject that the secret is for, or nobody, will do: so OpenSSL has it.
    """
    sender = header.sender_name_der
    named = asn1.content(asn1.element(credential.protector.sender_der))
    fits = sender is not None and same_name(sender, named)
    if not fits and sender is not None and not rules.strict:
        fits = sender == NULL_DN or credential.secret.is_for(sender)
    if not fits:
        raise ProtectionRefused(
            f"sender is not whom the {credential.secret.label} stands for", rule="R45"
        )


def authenticate_answer_by_secret(
    message: PKIMessage, credentials: Iterable[MACCredential], trust: TrustDomain
) -> MACAuthenticatedMessage:
    """Authenticate a message that a CA sent under the secret that the RA shares with it.

    Args:
        credentials: Of the secret, and of earlier ones, under the message's own parameters.
        trust: As of `authenticate_answer`.

    Raises:
        ProtectionRefused: The MAC does not verify with any.
    """
    octets = protected_part(message.header_der, message.body_der)
    for credential in credentials:
        expected = compute_mac(credential.parameters, credential.key, octets)
        if (
            credential.parameters.der == message.header.protection_alg_der
            and message.protection is not None
            and hmac.compare_digest(expected, message.protection)
        ):
            return MACAuthenticatedMessage(message, trust, credential, _SEAL)
    raise ProtectionRefused("the MAC of the answer does not verify", rule="R84")
