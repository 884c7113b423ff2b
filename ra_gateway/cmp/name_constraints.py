"""Name constraints of CA certificates (RFC 5280 4.2.1.10): which names may stand below a CA."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from cryptography import x509

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import NULL_DN, canonical
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import SignerNotTrusted

_RULE = "RFC 5280 4.2.1.10"

_MAX_COMPARED = 4096
"""Names times constraints of one CA; a base station has a handful of names, and its CA some ten constraints."""

# What `cryptography` raises for a certificate whose names it cannot read; not all of them are ValueErrors.
_UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def check_name_constraints(issuer: Certificate, below: Iterable[Certificate]) -> None:
    """Check the names of every certificate below a CA against the CA's constraints, if it has any.

    Raises:
        SignerNotTrusted: A name is outside, or the constraints are of a form that cannot be judged.
    """
    if OID.nameConstraints not in issuer.extensions:
        return
    try:
        parsed = x509.load_der_x509_certificate(issuer.der)
        constraints = parsed.extensions.get_extension_for_class(x509.NameConstraints).value
        trees = (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
        left = _MAX_COMPARED
        for certificate in below:
            names = _names(certificate)
            left -= len(names) * len(trees)
            if left < 0:
                raise SignerNotTrusted(
                    f"{certificate.subject} has {len(names)} names, {issuer.subject} {len(trees)} name constraints; "
                    f"at most {_MAX_COMPARED} comparisons are made",
                    rule=_RULE,
                )
            for name in names:
                _check(name, constraints, certificate, issuer)
    except _UNREADABLE as error:
        raise SignerNotTrusted(
            f"the name constraints of {issuer.subject} cannot be applied: {error}", rule=_RULE
        ) from error


def _names(certificate: Certificate) -> list[x509.GeneralName]:
    parsed = x509.load_der_x509_certificate(certificate.der)
    names: list[x509.GeneralName] = []
    if certificate.subject_der != NULL_DN:
        names.append(x509.DirectoryName(parsed.subject))
    if OID.subjectAltName in certificate.extensions:
        names.extend(parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return names


def _check(
    name: x509.GeneralName,
    constraints: x509.NameConstraints,
    certificate: Certificate,
    issuer: Certificate,
) -> None:
    excluded = [tree for tree in constraints.excluded_subtrees or () if type(tree) is type(name)]
    permitted = [tree for tree in constraints.permitted_subtrees or () if type(tree) is type(name)]
    if any(_inside(name, tree) for tree in excluded) or (
        permitted and not any(_inside(name, tree) for tree in permitted)
    ):
        raise SignerNotTrusted(
            f"{certificate.subject} has a name that {issuer.subject} may not certify", rule=_RULE
        )


def _inside(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    if isinstance(name, x509.DirectoryName) and isinstance(tree, x509.DirectoryName):
        whole, prefix = canonical(name.value.public_bytes()), canonical(tree.value.public_bytes())
        return whole[: len(prefix)] == prefix
    if isinstance(name, x509.DNSName) and isinstance(tree, x509.DNSName):
        return _domain_inside(name.value, tree.value, or_equal=True)
    if isinstance(name, x509.IPAddress) and isinstance(tree, x509.IPAddress):
        network = tree.value
        if isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return name.value in network
        raise ValueError("an IP constraint without a mask")
    if isinstance(name, x509.RFC822Name) and isinstance(tree, x509.RFC822Name):
        mailbox, _, host = name.value.rpartition("@")
        if "@" in tree.value:
            wanted, _, wanted_host = tree.value.rpartition("@")
            return mailbox == wanted and host.casefold() == wanted_host.casefold()
        return _host_inside(host, tree.value)
    if isinstance(name, x509.UniformResourceIdentifier) and isinstance(
        tree, x509.UniformResourceIdentifier
    ):
        uri_host = urlsplit(name.value).hostname
        if uri_host is None:
            raise ValueError("a URI without a host")
        return _host_inside(uri_host, tree.value)
    raise ValueError(f"a constraint on {type(tree).__name__}")


def _domain_inside(name: str, tree: str, *, or_equal: bool) -> bool:
    name, tree = name.casefold().rstrip("."), tree.casefold().strip(".")
    return (or_equal and name == tree) or not tree or name.endswith("." + tree)


def _host_inside(host: str, tree: str) -> bool:
    """Mail and URI hosts: a leading dot means subdomains only, none means this very host."""
    if tree.startswith("."):
        return _domain_inside(host, tree, or_equal=False)
    return host.casefold() == tree.casefold()
