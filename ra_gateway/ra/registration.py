"""Other RAs in front of this one: by which certificates, or names, they are known, and what they may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.hosts import asked_names, plain
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import (
    CanonicalName,
    canonical,
    general_name_key,
    general_name_keys,
)
from ra_gateway.cmp.signers import named_as_signer, named_in_bag
from ra_gateway.cmp.trust import Path, TrustDomain
from ra_gateway.errors import MalformedMessage, UpstreamBroken
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.transaction import Transaction


@dataclass(frozen=True, slots=True)
class RARights:
    """What an RA may ask for under its own protection.

    Args:
        identity: Which subjects and subjectAltNames; they also bound what it may have revoked.
        ra_verified: Whether it may vouch for proofs of possession.
        revoke_on_behalf: Whether it may have certificates revoked that are not its own.
    """

    identity: IdentityRules = field(default_factory=IdentityRules)
    ra_verified: bool = False
    revoke_on_behalf: bool = False


@dataclass(frozen=True, slots=True)
class RegisteredName:
    """An RA that is known by its names, so that its next certificate is as good as this one.

    Nobody else may therefore have a certificate with one of them (`ra.authorization`, `ra.response_checks`).

    Args:
        subject_der: Its subject; empty where only subjectAltName counts.
        san: Entries that its certificate has to have, as texts ("dns:occm.example.net").
        issuers: CAs of the operator, one of which has to be above it; empty for any of them.
        rights: What it may ask for besides certificates with its own names.
    """

    subject_der: bytes = b""
    san: tuple[str, ...] = ()
    issuers: frozenset[Certificate] = frozenset()
    rights: RARights = field(default_factory=RARights)
    subject: CanonicalName | None = field(init=False, compare=False)
    names: frozenset[str] = field(init=False, compare=False)
    """`san` as it compares."""
    _kept: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.subject_der and not self.san:
            raise ValueError("an RA is known by its subject, or its other names")
        subject = canonical(self.subject_der) if self.subject_der else None
        object.__setattr__(self, "subject", subject)
        object.__setattr__(self, "names", frozenset(map(general_name_key, self.san)))
        object.__setattr__(self, "_kept", frozenset(map(plain, self.san)))

    def fits(self, certificate: Certificate) -> bool:
        """Tell whether a certificate has these names; who issued it is not looked at."""
        try:
            if self.subject is not None and certificate.subject_name != self.subject:
                return False
            return not self.names or self.names <= general_name_keys(
                certificate.subject_alt_name_der
            )
        except MalformedMessage:
            return False  # what cannot be read is nobody's

    def registers(self, path: Path) -> bool:
        """Tell whether a certificate with a valid path to the operator's root speaks for this RA."""
        signer, *above = path
        usage = signer.key_usage
        return (
            self.fits(signer)
            and not signer.is_ca
            and usage is not None
            and KeyUsage.digitalSignature in usage
            and (not self.issuers or not self.issuers.isdisjoint(above))
        )

    def is_part_of(self, subject_der: bytes, san: Iterable[str]) -> bool:
        """Tell whether names that are asked for have one of these among them, or whatever reads like one."""
        san = tuple(san)
        if self.subject is not None and canonical(subject_der) == self.subject:
            return True
        return not self._kept.isdisjoint(asked_names(subject_der, san))


def check_no_ra(
    certificate: Certificate | None,
    transaction: Transaction,
    reserved: Iterable[RegisteredName],
    upstream: str,
) -> None:
    """Refuse names by which an RA is known where they were not asked for (step 8): a CA may add some.

    Args:
        certificate: As it was issued; None where there is none, or where only its device can read it.
        upstream: Name of the CA.

    Raises:
        UpstreamBroken: It has such names.
    """
    if certificate is None:
        return
    for name in reserved:
        asked = name.is_part_of(transaction.subject_der, transaction.san or ())
        if name.fits(certificate) and not asked:
            error = UpstreamBroken(
                f"{upstream} issued a certificate with a name by which an RA is registered here",
                rule="R87",
            )
            error.certificate_der = certificate.der
            raise error


@dataclass(frozen=True, slots=True)
class RegistrationAuthorities:
    """Other RAs, in front of this one, that pass on what their devices ask for (RFC 9483 5.2).

    Args:
        domain: Of kind registration_authority: where their certificates must lead to besides.
        certificates: Theirs, exactly: another one for the same name or key is not registered.
        identity: Which subjects and subjectAltNames they may ask for under their own protection.
        ra_verified: Whether they may vouch for proofs of possession.
        revoke_on_behalf: Whether they may have certificates revoked that are not their own.
        nested: Whether they may send messages inside nested.
        batch_max: Most messages of one batch.
        rights: Of single RAs, by certificate, in the place of the three above.
        names: RAs that are known by their names, each with rights of its own; `domain` then has the operator's roots.
    """

    domain: TrustDomain
    certificates: frozenset[Certificate]
    identity: IdentityRules = field(default_factory=IdentityRules)
    ra_verified: bool = False
    revoke_on_behalf: bool = False
    nested: bool = True
    batch_max: int = 64
    rights: Mapping[Certificate, RARights] = field(default_factory=dict)
    names: tuple[RegisteredName, ...] = ()

    def rights_of(self, path: Path) -> RARights:
        """Return what the RA may ask for whose certificate has a path to the root: by the row that registers it.

        The same names from another CA may be another RA's, with other rights.
        """
        certificate = path[0]
        named = next((item for item in self.names if item.registers(path)), None)
        if named is not None and certificate not in self.certificates:
            rights = named.rights
        else:
            everybody = RARights(self.identity, self.ra_verified, self.revoke_on_behalf)
            rights = self.rights.get(certificate, everybody)
        if named is None:
            return rights
        return replace(rights, identity=replace(rights.identity, own_names=True))

    def name_of(self, certificate: Certificate) -> RegisteredName | None:
        """Return the RA that a certificate's names are those of; who issued it is not looked at."""
        return next((item for item in self.names if item.fits(certificate)), None)

    def is_known(self, certificate: Certificate) -> bool:
        """Tell whether a certificate that was authenticated, by its path, is still one of theirs."""
        return certificate in self.certificates or self.name_of(certificate) is not None

    def registers(self, path: Path) -> bool:
        """Tell whether a certificate that is not listed is one of theirs by its names."""
        return any(item.registers(path) for item in self.names)

    def lists(self, message: PKIMessage) -> bool:
        """Tell whether a message says that a listed certificate protects it; whether that is so is not known."""
        return any(named_as_signer(message.header, item) for item in self.certificates)

    def protects(self, message: PKIMessage, rules: HeaderRules) -> bool:
        """Tell whether it says so, or of a certificate that it brings and that has the names of one of them."""
        if self.lists(message):
            return True
        return bool(self.names) and any(
            self.name_of(item) is not None for item in named_in_bag(message, rules)
        )
