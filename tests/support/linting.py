"""The linter's word on what the product makes while tests run.

About the profiles of a CA it is asked once in a process for each kind of CA (`remember_findings`): to ask takes two
seconds of every start of a CA, and CAs of tests differ in nothing but their keys.

About certificates and CRLs it is asked after each test, once in a run for each *shape* of them (`watch`): about all
that the product signs in the tests' own processes, in commands that tests start (`tests.support.commands`) and in the
children of `tests.support.crashing`; on request, for itself, for another operator's CA, for a demo's factory.

Left out is what tests make with tools of their own, for it is not issued by the CA, and often faulty by intent:
what `tests.support.pki` signs (its usual certificates are linted in `test_support`), CAs that are hostile or another
product's, and samples for the linter itself. So are programs that are typed as an operator would; `test_demo` reads
what its own leave behind. Of a shape the first one is looked at: what only a value makes wrong, another may hide.
`make lint-each` asks about every single one (pytest --lint-each).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ra_gateway import keys
from ra_gateway.ca import crl, files, hierarchy, lint
from ra_gateway.ca.conformance import CheckedTBS
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import SEG, Profile
from ra_gateway.ca.root_record import ROOT_CRL
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import MalformedMessage
from ra_gateway.owners import as_ourselves

_ask: Final = lint.lint_profile
_answers: Final[dict[tuple[Profile, bytes, timedelta, frozenset[str]], list[str]]] = {}


def remember_findings() -> None:
    """Have what the linter said of a profile stand for all CAs with that algorithm, validity and extensions."""
    lint.lint_profile = _remembered


def _remembered(profile: Profile, issuer: Issuer) -> list[str]:
    certificate = issuer.certificate
    validity = certificate.not_after - certificate.not_before
    kind = (profile, issuer.signer.algorithm.der, validity, frozenset(certificate.extensions))
    if kind not in _answers:
        _answers[kind] = _ask(profile, issuer)
    return list(_answers[kind])


# --- asking ---------------------------------------------------------------------------------------------------


_URI_REFUSED: Final = re.compile(
    r"error pkix\.invalid_uri_syntax at .*"
    r""": "[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"[^"]*"""
)
"""What the linter says of a URI that has no other characters than RFC 3986 gives it: it knows those of browsers alone,
neither URNs, SIP and CoAP, nor all that may be in a path.
"""


def certificate_errors(profile: Profile, der: bytes) -> list[str]:
    """Return what the linter takes for an error in a certificate of a profile."""
    return [
        finding
        for finding in lint.lint_certificate(profile, der)
        if finding.startswith(("error ", "fatal ")) and not _URI_REFUSED.fullmatch(finding)
    ]


def crl_errors(der: bytes, kind: str = "CRL") -> list[str]:
    """Return what the linter takes for an error in a CRL."""
    from pkilint.validation import ValidationFindingSeverity

    validator, loader = _crl_linter()
    document = loader.load_der_document(der, kind)
    return [
        f"{description.finding.code} at {result.node.path}"
        for result in validator.validate(document.root)
        for description in result.finding_descriptions
        if description.finding.severity <= ValidationFindingSeverity.ERROR
    ]


@functools.lru_cache(maxsize=1)
def _crl_linter() -> tuple[Any, Any]:
    # Imported here: it takes half a second, which most single tests can do without.
    from pkilint import pkix
    from pkilint.loader import RFC5280CertificateListDocumentLoader
    from pkilint.pkix import crl, extension, name

    validator = crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )
    return validator, RFC5280CertificateListDocumentLoader()


# --- shapes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A certificate or a CRL that the product signed.

    Args:
        profile: That a certificate was issued under, if it was under any.
    """

    der: bytes
    is_crl: bool = False
    profile: Profile | None = None

    @property
    def name(self) -> str:
        """What it is, for a text."""
        if self.is_crl:
            return "CRL"
        return f"certificate of {self.profile.name}" if self.profile else "certificate"

    @property
    def shape(self) -> str:
        """What the linter may have another word on: all but the values, of which remains what sort they are."""
        _, tbs_start, _ = asn1.spans(self.der, 0, len(self.der), 1, self.name)[0]
        tbs = asn1.first_element(self.der, tbs_start)
        return hashlib.sha256(f"{self.name} {_sort(self.der, *tbs)}".encode()).hexdigest()

    def errors(self) -> list[str]:
        """Return what the linter takes for an error."""
        if self.is_crl:
            return crl_errors(self.der)
        return certificate_errors(self.profile or SEG, self.der)


_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_VERBATIM: Final = frozenset({0x01, 0x06, 0x0A})
"""BOOLEAN, OBJECT IDENTIFIER, ENUMERATED."""
_BITS: Final = 0x03
_IP_ADDRESS: Final = 0x87
_KEY_IDENTIFIER_OCTETS: Final = 20

_PLAIN: Final = re.compile(rb"[A-Za-z0-9 .,'()+/:=?@&_*-]{1,64}")
_SCHEME: Final = re.compile(rb"[a-z]+:(?=//)|urn:[a-z]+:")
_FEW: Final = 40


def _outline(der: bytes, start: int, end: int) -> str:
    """Return of what sorts the elements between two offsets are; of a long list, those at both ends."""
    found = asn1.spans(der, start, end, len(der), "something made")
    if len(found) > 2 * _FEW:
        found = found[:_FEW] + found[-_FEW:]
    sorts = {f"{tag:x}{_sort(der, tag, begin, behind)}" for tag, begin, behind in found}
    return f"({' '.join(sorted(sorts))})"


def _sort(der: bytes, tag: int, start: int, end: int) -> str:
    if tag & 0x20:  # constructed
        return _outline(der, start, end)
    value = der[start:end]
    if tag == _OCTET_STRING and len(value) != _KEY_IDENTIFIER_OCTETS:  # an extension's
        try:
            return _outline(der, start, end)
        except MalformedMessage:
            return str(len(value))
    if tag == _INTEGER:
        return "-" if value[0] & 0x80 else "+" if len(value) <= 20 else "++"
    if tag in _VERBATIM or (tag == _BITS and len(value) <= 3):
        return value.hex()
    if tag in (_BITS, _IP_ADDRESS):
        return str(len(value))
    if (scheme := _SCHEME.match(value)) is not None:
        return scheme[0].decode()
    return "." if _PLAIN.fullmatch(value) else ">" if len(value) > 64 else "!" if value else ""


# --- watching -------------------------------------------------------------------------------------------------

_LARGEST_OCTETS: Final = 100_000
"""Of larger CRLs nothing is asked: they are of the shape of smaller ones, and take the linter minutes."""

_EACH: Final = "each"
"""A file that tells processes which are no tests' to deliver every single one."""

_made: Final[list[Made]] = []
_known: Final[set[str]] = set()
_profiles: Final[dict[bytes, Profile]] = {}
"""By TBSCertificate, of what is about to be signed."""
_shared: Path | None = None
_delivered_to: Path | None = None
_is_about_each = False


def watch() -> None:
    """Have all that the product signs in this process, and in processes forked from it, be remembered."""
    inspect, sign = Issuer.inspect, Issuer.sign

    @functools.wraps(inspect)
    def inspecting(self: Issuer, tbs_der: bytes, plan: Any, profile: Profile, now: Any) -> Any:
        _profiles[tbs_der] = profile
        return inspect(self, tbs_der, plan, profile, now)

    @functools.wraps(sign)
    async def signing(self: Issuer, checked: CheckedTBS) -> Certificate:
        certificate = await sign(self, checked)
        _remember(Made(certificate.der, profile=_profiles.pop(certificate.tbs_der, None)))
        return certificate

    Issuer.inspect, Issuer.sign = inspecting, signing  # type: ignore[method-assign]
    for function in (hierarchy.certify_ca, keys.sign_certificate):
        _replace(function, _certifying(function))
    sign_crl, write_octets = crl._sign, files.Change.write_octets

    @functools.wraps(sign_crl)
    async def signing_crl(content: crl.CRLContent, issuer: crl.CRLIssuer) -> bytes:
        der = await sign_crl(content, issuer)
        _remember(Made(der, is_crl=True))
        return der

    @functools.wraps(write_octets)
    def writing(self: files.Change, name: str, octets: bytes) -> None:
        if name == ROOT_CRL:
            _remember(Made(octets, is_crl=True))
        write_octets(self, name, octets)

    crl._sign = signing_crl
    files.Change.write_octets = writing  # type: ignore[method-assign]


def _certifying(certify: Callable[..., Certificate]) -> Callable[..., Certificate]:
    @functools.wraps(certify)
    def certifying(*arguments: Any, **options: Any) -> Certificate:
        certificate = certify(*arguments, **options)
        _remember(Made(certificate.der))
        return certificate

    return certifying


def _replace(function: Any, successor: Any) -> None:
    """Put a function into the place of another one, in every module that has imported that."""
    for module in [item for name, item in sys.modules.items() if name.startswith("ra_gateway.")]:
        for name in [name for name, item in vars(module).items() if item is function]:
            setattr(module, name, successor)


def _remember(made: Made) -> None:
    if len(made.der) > _LARGEST_OCTETS:
        return
    if _delivered_to is None:
        _made.append(made)
    elif (shape := _asked_for(made)) not in _known:
        _known.add(shape)
        whole = _delivered_to / f"{shape}.{os.getpid()}"
        with as_ourselves():  # the directory is not that of whose CA this is
            whole.write_bytes(pickle.dumps(made))
            whole.rename(_delivered_to / shape)  # it may be killed at any time


def _asked_for(made: Made) -> str:
    """Return what is asked about once in a run: the shape, or this very one."""
    return hashlib.sha256(made.der).hexdigest() if _is_about_each else made.shape


def share(directory: Path, *, each: bool = False) -> None:
    """Have processes share what was asked already, and take what those of `deliver` write.

    Args:
        directory: One for all processes of the run; there.
        each: Ask about every single certificate and CRL, not about one of each shape.
    """
    global _shared, _is_about_each
    _shared, _is_about_each = directory, each
    if each:
        (directory / _EACH).touch()
    for name in ("asked", "delivered"):
        (directory / name).mkdir(exist_ok=True)


def delivery() -> Path | None:
    """Return where a process that this one starts should `deliver` to."""
    return _shared and _shared / "delivered"


def deliver(directory: Path | None) -> None:
    """In a process that is no test's: write what it makes for a test's process to ask about."""
    global _delivered_to, _is_about_each
    _delivered_to = directory
    _is_about_each = directory is not None and (directory.parent / _EACH).exists()


def new_errors() -> list[str]:
    """Ask the linter about each new shape since the last call, and return what it takes for an error."""
    made = [_made.pop() for _ in range(len(_made))]  # a server's thread may add to it
    made += _taken()
    _profiles.clear()
    found = []
    for item in made:
        shape = _asked_for(item)
        if shape not in _known:
            _known.add(shape)
            if _is_first(shape) and (errors := item.errors()):
                text = base64.b64encode(item.der).decode()
                found.append(f"{item.name}: {'; '.join(errors)}: {text}")
    return found


def require_linted() -> None:
    """Require that the linter finds no error in what was made since the last call.

    Raises:
        AssertionError: It finds some.
    """
    if errors := new_errors():
        raise AssertionError("\n".join(errors))


def _taken() -> Iterator[Made]:
    for path in () if _shared is None else (_shared / "delivered").iterdir():
        if not path.suffix:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                octets = path.read_bytes()
                path.unlink()
                yield pickle.loads(octets)  # noqa: S301 - our own child's


def _is_first(shape: str) -> bool:
    """Return whether no process has asked about a shape, and note that this one does."""
    if _shared is not None:
        try:
            (_shared / "asked" / shape).touch(exist_ok=False)
        except FileExistsError:
            return False
    return True
