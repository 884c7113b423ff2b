"""Trust domains, and paths from a signer to an anchor (RFC 5280 6.1).

Our own path builder, because the one in `cryptography` refuses Ed25519, Ed448 and RSA below 2048 bits, which
vendor chains have, and reports no reason; DECISIONS.md has the whole comparison. Two things keep it cheap
for strangers: signatures are verified from the anchor downwards, and a certificate's key is touched after the
signature over it verified, so that a chain nobody here issued fails at its first link; what is looked at and
verified per message is bounded (`SearchBudget`), over all its signers and all domains; and a domain none of whose CAs
is named by what came with the message (`Bag`) is not searched, so that a hundred vendors cost what one does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp.algorithms import AlgorithmPolicy, AlgorithmRefused, public_key_kind
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.header_checks import takes_ber
from ra_gateway.cmp.name_constraints import check_name_constraints
from ra_gateway.cmp.names import CanonicalName, canonical
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, MalformedMessage, SignerNotTrusted

MAX_PATH_CERTIFICATES: Final = 8
"""Leaf to anchor. Vendor chains seen have three; the Web's longest have five."""

_CANDIDATES_PER_DOMAIN: Final = 4
"""More of them for each domain that has a CA of a name in question: of vendors whose CAs share their names, the last
is searched like the first."""

MAX_PATHS_TRIED: Final = 8
"""Per message: cross-certificates make more than one path, an attacker's bag makes thousands."""

MAX_CANDIDATES: Final = 24
"""Per message: certificates that are looked at as issuers of others; a chain in order has one for each level."""

MAX_LINKS_VERIFIED: Final = 16
"""Per message: signatures over certificates; a path of the greatest length has seven."""

MAX_LINKS_REFUSED: Final = 6
"""Per message: those that did not verify, which is all that a stranger can have. Five are met where two roots, and
two CAs at each level below, share names and have no key identifiers."""

_SLOW_KEYS: Final = frozenset({"P-384", "P-521", "ml-dsa-65", "ml-dsa-87"})
_SLOW_LINK: Final = 2
"""What a wrong signature by one of these counts as: it takes some half a millisecond, on P-256 a tenth of one."""

MAX_NAMES_READ: Final = 10
"""Per message: subjects and issuers that are made comparable, a tenth of a millisecond each. CAs whose subject is the
wanted issuer by its very octets go first, so that a bag full of others takes nothing from a chain in order."""

_REMEMBERED_PATHS: Final = 1024
"""Validated paths of CA certificates per domain: a vendor has a handful."""

_PROCESSED_EXTENSIONS: Final = frozenset(
    {
        OID.keyUsage,
        OID.subjectAltName,
        OID.basicConstraints,
        OID.nameConstraints,
        OID.certificatePolicies,
        OID.extKeyUsage,
        OID.subjectKeyIdentifier,
        OID.authorityKeyIdentifier,
    }
)


class DomainKind(StrEnum):
    """Whose certificates a trust domain holds."""

    vendor = "vendor"
    operator = "operator"
    registration_authority = "registration_authority"  # other RAs, which speak for their devices
    shared_secrets = "shared_secrets"  # no certificates at all: for requests under a MAC


Path = tuple[Certificate, ...]
"""From the leaf to the anchor, both included."""


@dataclass(slots=True)
class SearchBudget:
    """What the search for the path of one message's signer may still cost, whatever domains are asked.

    Args:
        candidates: Certificates that may be looked at as the issuer of another one.
        paths: Paths that may be tried.
        links: Signatures over certificates that may be verified.
        refused_links: Those that may turn out wrong; slow ones count as more than one.
        names: Subjects and issuers that may be read.
        searched: Names of domains that had candidates of their own.
    """

    candidates: int = MAX_CANDIDATES
    paths: int = MAX_PATHS_TRIED
    links: int = MAX_LINKS_VERIFIED
    refused_links: int = MAX_LINKS_REFUSED
    names: int = MAX_NAMES_READ
    searched: set[str] = field(default_factory=set)
    _seen: dict[tuple[bytes, bytes, bytes], bool] = field(default_factory=dict)
    _read: dict[bytes, CanonicalName | None] = field(default_factory=dict)

    @property
    def is_spent(self) -> bool:
        """Whether no path can be found any more: each has a signature in it that is not verified yet."""
        return self.paths <= 0 or self.links <= 0 or self.refused_links <= 0

    def name(self, name_der: bytes) -> CanonicalName | None:
        """Return a Name as it compares; None if it is none, or as many were read as may be."""
        if name_der not in self._read:
            if not self.names:
                return None
            self.names -= 1
            self._read[name_der] = _name_of(name_der)
        return self._read[name_der]

    def self_issued(self, certificate: Certificate) -> bool:
        """Tell whether subject and issuer are known to be the same name."""
        if certificate.subject_der == certificate.issuer_der:
            return True
        subject = self.name(certificate.subject_der)
        return subject is not None and subject == self.name(certificate.issuer_der)

    def is_refused(self, certificate: Certificate, issuer: Certificate) -> bool:
        """Tell whether the signature over a certificate was found wrong."""
        return self._seen.get((certificate.digest, certificate.signature, issuer.digest)) is False

    def grant(self, domain: str) -> None:
        """Let a domain have a few candidates of its own, unless it had them already and no path was found."""
        if domain not in self.searched:
            self.searched.add(domain)
            self.candidates += _CANDIDATES_PER_DOMAIN

    def look(self) -> bool:
        """Tell whether one more certificate may be looked at as an issuer, and count it."""
        if self.candidates <= 0:
            return False
        self.candidates -= 1
        return True

    def verify_link(self, certificate: Certificate, issuer: Certificate) -> None:
        """Verify the signature over a certificate, unless that was done.

        Raises:
            InvalidSignature: It does not verify.
            SignerNotTrusted: So many were verified before that this one is not.
            AlgorithmRefused: As `Certificate.verify_issued_by`.
        """
        link = (certificate.digest, certificate.signature, issuer.digest)
        seen = self._seen.get(link)
        if seen is None:
            if self.links <= 0 or self.refused_links <= 0:
                raise _spent()
            self.links -= 1
            try:
                certificate.verify_issued_by(issuer)
            except InvalidSignature:
                slow = public_key_kind(issuer.spki_der).name in _SLOW_KEYS
                self.refused_links -= _SLOW_LINK if slow else 1
                self._seen[link] = False
                raise
            self._seen[link] = True
        elif not seen:
            raise InvalidSignature


class Bag:
    """What came with a message, as far as it may have issued something: its CA certificates, by their names.

    Args:
        certificates: In any order; none of them becomes an anchor.
    """

    def __init__(self, certificates: Iterable[Certificate]) -> None:
        self._cas = list(dict.fromkeys(item for item in certificates if item.is_ca))
        self._named: dict[bytes, list[Certificate]] = {}
        self._issuers: dict[Certificate, list[Certificate]] = {}
        self._above: dict[bytes, frozenset[CanonicalName]] = {}

    def named(self, name_der: bytes, budget: SearchBudget) -> list[Certificate]:
        """Return the CAs of a name, in another spelling only if none has it in this one."""
        found = self._named.get(name_der)
        if found is None:
            found = [item for item in self._cas if item.subject_der == name_der]
            if not found and (name := budget.name(name_der)) is not None:
                found = [item for item in self._cas if budget.name(item.subject_der) == name]
            self._named[name_der] = found
        return found

    def issuers(self, certificate: Certificate, budget: SearchBudget) -> list[Certificate]:
        """Return the CAs that may have issued a certificate, the likeliest first."""
        found = self._issuers.get(certificate)
        if found is None:
            found = _likeliest_first(certificate, self.named(certificate.issuer_der, budget))
            self._issuers[certificate] = found
        return found

    def names_above(self, leaf: Certificate, budget: SearchBudget) -> frozenset[CanonicalName]:
        """Return the names of all issuers that a path from a certificate can have, those that did not come included."""
        known = self._above.get(leaf.issuer_der)
        if known is not None:
            return known
        seen: dict[bytes, CanonicalName | None] = {}
        waiting = [leaf.issuer_der]
        while waiting:
            issuer_der = waiting.pop()
            if issuer_der not in seen:
                seen[issuer_der] = budget.name(issuer_der)
                waiting.extend(item.issuer_der for item in self.named(issuer_der, budget))
        names = frozenset(name for name in seen.values() if name is not None)
        self._above[leaf.issuer_der] = names
        return names


@dataclass(frozen=True, eq=False)
class TrustDomain:
    """A set of anchors and what may be said in their name.

    Args:
        name: As in the configuration; part of every transaction's key.
        anchors: Root certificates; without any, nothing is trusted.
        intermediates: Known CA certificates; senders need not include them.
        quirks: Names of the rules that are relaxed for this domain's devices.
        revoked_as: Name of the domain whose revocations count for its certificates; "" for its own.
        quirks_of: Name of the domain by which its devices came, where that one's quirks are among these; "" for none.
        forgiven_signatures: What messages and proofs of possession, but no certificate, may be signed with besides.
        only_known: Whether of the CAs below an anchor only `intermediates` count, and self-issued ones, as of an update
            of the root: not another operator's, whom the root has certified as well (TS 33.310 7.3).
    """

    name: str
    kind: DomainKind
    anchors: tuple[Certificate, ...]
    intermediates: tuple[Certificate, ...] = ()
    algorithms: AlgorithmPolicy = field(default_factory=AlgorithmPolicy)
    quirks: frozenset[str] = frozenset()
    revoked_as: str = ""
    quirks_of: str = ""
    forgiven_signatures: frozenset[str] = frozenset()
    only_known: bool = False
    _signers: dict[Certificate, Path] = field(default_factory=dict, repr=False)
    _remembered: OrderedDict[Path, tuple[datetime, datetime]] = field(
        default_factory=OrderedDict, repr=False
    )

    def find_path(
        self,
        leaf: Certificate,
        bag: Bag | Iterable[Certificate],
        now: datetime,
        *,
        remember_leaf: bool = False,
        budget: SearchBudget | None = None,
    ) -> Path:
        """Return a valid path from a certificate to one of the domain's anchors.

        Args:
            bag: Certificates that came with the message; a `Bag`, where more than one search is made in it.
            now: Aware UTC; every certificate on the path must be valid then.
            remember_leaf: Remember the whole path, not only the CAs on it. For the few certificates that come
                back with every message (a CA's signer), not for devices.
            budget: Of the message, where more than one search is made for it.

        Raises:
            SignerNotTrusted: No path, or none that is valid; the detail says which and why.
            AlgorithmRefused: The only paths use an algorithm or key that the domain does not allow.
        """
        known_path = self._signers.get(leaf)
        if known_path is not None and self._knows(known_path, now):
            return known_path
        budget = SearchBudget() if budget is None else budget
        came = bag if isinstance(bag, Bag) else Bag(bag)
        refusal: CMPError | None = None
        for path in self._candidate_paths(leaf, came, budget):
            try:
                self._validate(path, now, budget)
                if remember_leaf:
                    self._remember(path)
                    self._signers[leaf] = path
            except InvalidSignature:
                refusal = refusal or _not_signed(path, budget)
            except CMPError as error:
                refusal = refusal or error
            else:
                budget.searched.discard(self.name)
                return path
        if refusal is not None:
            raise refusal
        if budget.is_spent:
            raise _spent()
        raise NoPath(leaf, self.anchors_told)

    def may_vouch_for(self, leaf: Certificate, bag: Bag, budget: SearchBudget) -> bool:
        """Tell whether a search can find anything: some CA of the domain has a name that a path has to come by."""
        return leaf in self.anchors or not self._names.isdisjoint(bag.names_above(leaf, budget))

    def _candidate_paths(self, leaf: Certificate, bag: Bag, budget: SearchBudget) -> Iterator[Path]:
        if leaf in self.anchors:
            yield (leaf,)
            return
        if budget.is_spent or not self.may_vouch_for(leaf, bag, budget):
            return
        budget.grant(self.name)
        anchors, known = self._index
        stack: list[Iterator[Path]] = [iter(((leaf,),))]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
                continue
            last = path[-1]
            if last is not leaf:
                if not budget.look():
                    return
                if not _leads_on(last, budget):
                    continue
            issuer = budget.name(last.issuer_der)
            if issuer is None:
                continue
            for anchor in _likeliest_first(last, anchors.get(issuer, ())):
                if budget.is_spent or not budget.look():
                    return
                if not budget.is_refused(last, anchor):
                    budget.paths -= 1
                    yield (*path, anchor)
            if len(path) < MAX_PATH_CERTIFICATES - 1:
                candidates = bag.issuers(last, budget)
                if self.only_known:
                    candidates = [item for item in candidates if budget.self_issued(item)]
                if issuer in known:  # what the domain knows before the bag's
                    candidates = _likeliest_first(last, (*known[issuer], *candidates))
                stack.append(_longer(path, candidates, budget))

    @cached_property
    def message_algorithms(self) -> AlgorithmPolicy:
        """What messages and proofs of possession may be signed with, and what keys may be."""
        more = self.forgiven_signatures - self.algorithms.signatures
        if not more:
            return self.algorithms
        return replace(self.algorithms, signatures=self.algorithms.signatures | more)

    @property
    def forgives(self) -> bool:
        """Whether its devices are forgiven anything."""
        return bool(self.quirks) or self.message_algorithms.forgives

    @property
    def origin(self) -> str:
        """Name of the domain by which its devices came, "" where nothing is forgiven for that."""
        if self.kind is DomainKind.operator:
            return self.quirks_of
        if self.kind is DomainKind.registration_authority:
            return ""  # an RA's devices are forgiven by the RA
        return self.name if self.forgives else ""

    @cached_property
    def _names(self) -> frozenset[CanonicalName]:
        anchors, known = self._index
        return frozenset((*anchors, *known))

    @cached_property
    def anchors_told(self) -> str:
        """Name and anchors, for people."""
        known = "; ".join(anchor.subject for anchor in self.anchors) or "none configured"
        if self.only_known:
            known += ", by the CAs that are listed as intermediates alone"
        return f"{self.name}: {known}"

    @cached_property
    def _index(self) -> tuple[_BySubject, _BySubject]:
        return _by_subject(self.anchors), _by_subject(self.intermediates)

    def _validate(self, path: Path, now: datetime, budget: SearchBudget) -> None:
        leaf, cas = path[0], path[1:]
        if cas and not self._knows(cas, now):
            self._check_cas(cas, now, budget)
            self._remember(cas)
        self._check_certificate(leaf, now)
        if cas:
            self._verify_link(leaf, cas[0], budget)
        self._check_key(leaf)
        for index, certificate in enumerate(cas):
            # RFC 5280 6.1.3 b: self-issued certificates are passed over, unless they are the last.
            below = (
                item for item in path[: index + 1] if item is leaf or not budget.self_issued(item)
            )
            check_name_constraints(certificate, below)

    def _check_cas(self, cas: Path, now: datetime, budget: SearchBudget) -> None:
        depth = 0  # CA certificates below the current one that are not self-issued
        for certificate in cas:
            self._check_certificate(certificate, now)
            # An anchor of version 1 is a CA by configuration (RFC 5280 6.1.1 d).
            if certificate is not cas[-1] or not certificate.is_v1_root:
                _require_ca(certificate, depth)
            depth += not budget.self_issued(certificate)
        self._check_key(cas[-1])
        for index in range(len(cas) - 2, -1, -1):
            self._verify_link(cas[index], cas[index + 1], budget)
            self._check_key(cas[index])

    def _check_certificate(self, certificate: Certificate, now: datetime) -> None:
        """Check what needs no key."""
        if certificate.not_der and not takes_ber(self.quirks):
            raise SignerNotTrusted(
                f"{certificate.subject} is encoded wrongly: {certificate.not_der}",
                rule="RFC 5280 4.1",
            )
        if not certificate.valid_at(now):
            raise SignerNotTrusted(
                f"{certificate.subject} is valid from {certificate.not_before:%Y-%m-%dT%H:%M:%SZ} "
                f"to {certificate.not_after:%Y-%m-%dT%H:%M:%SZ} only",
                rule="R22",
            )
        unknown = [
            oid
            for oid, (critical, _) in certificate.extensions.items()
            if critical and oid not in _PROCESSED_EXTENSIONS
        ]
        if unknown:
            raise SignerNotTrusted(
                f"{certificate.subject} has critical extensions that are not understood: "
                f"{', '.join(unknown)}",
                rule="RFC 5280 6.1.4",
            )

    def _check_key(self, certificate: Certificate) -> None:
        """Check a key that the issuer's signature, or the configuration, vouches for."""
        # An ML-KEM key signs nothing, whatever the domain allows of signatures: it can only be a path's end.
        if certificate.is_ca or public_key_kind(certificate.spki_der).family:
            self.algorithms.require_key(certificate.spki_der, "has a key", certificate)

    def _verify_link(
        self, certificate: Certificate, issuer: Certificate, budget: SearchBudget
    ) -> None:
        try:
            algorithm = certificate.signature_algorithm
        except AlgorithmRefused as error:
            raise AlgorithmRefused(f"{certificate}: {error.detail}", rule=error.rule) from error
        self.algorithms.require_signature(algorithm, "is signed", certificate)
        budget.verify_link(certificate, issuer)

    def _knows(self, path: Path, now: datetime) -> bool:
        """Tell whether a path was validated before and all of it is still valid."""
        period = self._remembered.get(path)
        return period is not None and period[0] <= now <= period[1]

    def _remember(self, path: Path) -> None:
        self._remembered[path] = (
            max(certificate.not_before for certificate in path),
            min(certificate.not_after for certificate in path),
        )
        if len(self._remembered) > _REMEMBERED_PATHS:
            forgotten, _ = self._remembered.popitem(last=False)
            self._signers.pop(forgotten[0], None)


class NoPath(SignerNotTrusted):
    """No path leads from a certificate to an anchor."""

    def __init__(self, leaf: Certificate, anchors: str) -> None:
        super().__init__(
            f"no path from {leaf.subject} (issuer {leaf.issuer}) to an anchor of {anchors}",
            rule="R21",
        )
        self.anchors = anchors


def _not_signed(path: Path, budget: SearchBudget) -> SignerNotTrusted:
    """Say which link of a path was refused; names are written out for the one path that is told of."""
    certificate, issuer = next(link for link in pairwise(path) if budget.is_refused(*link))
    return SignerNotTrusted(
        f"{certificate.subject} was not signed by the key of {issuer.subject}", rule="R21"
    )


def _spent() -> SignerNotTrusted:
    return SignerNotTrusted(
        "no path was found within the signatures that are verified for one message", rule="R21"
    )


_BySubject = dict[CanonicalName, tuple[Certificate, ...]]


def _by_subject(certificates: Iterable[Certificate]) -> _BySubject:
    index: _BySubject = {}
    for certificate in certificates:
        subject = certificate.subject_name
        index[subject] = (*index.get(subject, ()), certificate)
    return index


def _name_of(name_der: bytes) -> CanonicalName | None:
    """Return a Name as it compares, None where it is none: a stray certificate must not end the search."""
    try:
        return canonical(name_der)
    except MalformedMessage:
        return None


def _likeliest_first(
    certificate: Certificate, candidates: Iterable[Certificate]
) -> list[Certificate]:
    """Put first whom the key identifier names, last whom it contradicts; nobody is ruled out by it.

    RFC 5280 6.1 does not check key identifiers: they help to choose, the signature decides.
    """
    wanted = certificate.authority_key_identifier

    def rank(candidate: Certificate) -> int:
        offered = candidate.subject_key_identifier
        if wanted is None or offered is None:
            return 1
        return 0 if wanted == offered else 2

    return sorted(candidates, key=rank)


def _longer(path: Path, candidates: Iterable[Certificate], budget: SearchBudget) -> Iterator[Path]:
    """Yield a path with each candidate at its end that may have issued the last of it."""
    for candidate in candidates:
        if candidate not in path and not budget.is_refused(path[-1], candidate):
            yield (*path, candidate)


def _leads_on(candidate: Certificate, budget: SearchBudget) -> bool:
    """Tell whether a CA certificate can have another issuer than itself.

    A self-signed one cannot. A self-issued one can: a root's new key certified with its old one (newWithOld,
    RFC 9810 4.4), which then names the old key.
    """
    wanted = candidate.authority_key_identifier
    return not budget.self_issued(candidate) or wanted not in (
        None,
        candidate.subject_key_identifier,
    )


def _require_ca(certificate: Certificate, depth: int) -> None:
    is_ca, path_length = certificate.basic_constraints
    if not is_ca:
        raise SignerNotTrusted(
            f"{certificate.subject} issued a certificate but is not a CA", rule="RFC 5280 6.1.4 k"
        )
    if path_length is not None and depth > path_length:
        raise SignerNotTrusted(
            f"{certificate.subject} allows {path_length} CAs below it, the path has {depth}",
            rule="RFC 5280 6.1.4 l",
        )
    usage = certificate.key_usage
    if usage is not None and KeyUsage.keyCertSign not in usage:
        raise SignerNotTrusted(
            f"{certificate.subject} issued a certificate but lacks keyCertSign",
            rule="RFC 5280 6.1.4 n",
        )
