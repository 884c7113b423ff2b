"""A sample certificate of a profile, looked at by a linter that is not ours (pkilint: RFC 5280 and its updates).

Every certificate is checked by our own code before it is signed (`conformance.require_conforming`), but against
what we understood; a misunderstanding would pass. A linter takes milliseconds and is asked once, when profiles
are loaded. The samples are signed with a key that is thrown away, never with the CA's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509

from ra_gateway.ca.clauses import nf_types_value, strength_bits
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.key_generation import MAKERS
from ra_gateway.ca.profiles import ATTRIBUTES, CLOCK_SKEW, SAN_TAGS, Profile, SubjectForm
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm, signing_arguments
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import directory_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, ConfigError, Problem, missing_extra
from ra_gateway.keys import spki_der

_SAMPLE_INSTANCE: Final = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"

WAIVED: Final[MappingProxyType[str, tuple[Callable[[Profile, str], bool], str]]] = MappingProxyType(
    {
        "pkix.san_extension_is_critical_non_empty_subject": (
            lambda profile, _: profile.san_critical,
            "TS 33.310 6.1.3c has SubjectAltName critical, and overrides the SHOULD of RFC 5280 4.2.1.6",
        ),
        "pkix.invalid_uri_syntax": (
            lambda profile, text: profile.instance_uri and _SAMPLE_INSTANCE in text,
            "TS 33.310 6.1.3c.3 names a network function by a URN, which RFC 3986 allows and pkilint does not",
        ),
    }
)
"""Findings that are no fault: the linter's code, for which profiles and texts it is waived, and why."""

WAIVED_PATH: Final = "certificate.tbsCertificate.issuer"
"""What is found there is about the name of the CA, which comes from its own certificate and from no profile."""

_SAMPLE_SERIAL: Final = 1 << 126

_SAMPLE_VALUES: Final = MappingProxyType(
    {"C": "DE", "DC": "example", "emailAddress": "ne1@example.net", "CN": "ne1.example.net"}
)
_SAMPLE_VALUE: Final = "Sample"
_SAMPLE_HOME: Final = "5gc.mnc001.mcc262.3gppnetwork.org"

# Linters know URLs, but not the URN that network functions use; the structure around it is the same.
_SAMPLE_NAMES: Final = MappingProxyType(
    {
        "dn": directory_name(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ne1")]).public_bytes()
        ),
        "ip": asn1.tlv(0x87, bytes((192, 0, 2, 1))),
    }
)
_SAMPLE_HOSTS: Final = MappingProxyType({"dns": "{0}", "email": "ne1@{1}", "uri": "https://{0}/"})


def require_clean(profiles: Iterable[Profile], issuer: Issuer) -> None:
    """Refuse profiles of which a linter has something to say.

    Takes about a quarter of a second for the linter to be imported, and some 30 ms for each profile.

    Args:
        issuer: The CA that is going to issue under them.

    Raises:
        ConfigError: With the findings; or the linter is not installed.
    """
    try:
        _linter()
    except ModuleNotFoundError as error:
        raise missing_extra("ca", error) from error
    problems = [
        Problem(
            f"ca.profiles.{profile.name}",
            f"gives certificates that break RFC 5280: {finding}",
            "Change what the finding is about in the profile or in the issuing CA's certificate",
        )
        for profile in profiles
        for finding in lint_profile(profile, issuer)
    ]
    if problems:
        raise ConfigError(problems)


def lint_profile(profile: Profile, issuer: Issuer) -> list[str]:
    """Return what a linter says of sample certificates of a profile, one for each kind of key it takes.

    Nothing is said of a kind of key that the issuing CA is too weak for, nor of a profile that issues nothing since
    no URL of a CRL is set: requests are told.

    Args:
        issuer: Its certificate counts; its key is not used.

    Returns:
        Findings of the severities error and warning that are not waived, each once; empty is the good case.
    """
    findings: dict[str, None] = {}
    # Whose names these are is no matter of form.
    profile = replace(profile, domains=(), organisations=())
    if profile.crl_required and not profile.crl_urls:
        return []
    for kind in sorted(profile.key_kinds):
        key_der = spki_der(_throwaway_key("rsa2048" if kind == "rsa" else kind))
        if not profile.stronger_keys and strength_bits(key_der) > strength_bits(
            issuer.certificate.spki_der
        ):
            continue
        try:
            findings |= dict.fromkeys(lint_certificate(profile, _sample(profile, key_der, issuer)))
        except CMPError as error:
            findings[f"no certificate can be made for a key of kind {kind}: {error.detail}"] = None
    return list(findings)


def _sample(profile: Profile, key_der: bytes, issuer: Issuer) -> bytes:
    """Return a certificate that a device with a key could get."""
    certificate = issuer.certificate
    moment = min(certificate.not_before + CLOCK_SKEW, certificate.not_after - CLOCK_SKEW)
    extensions = []
    if profile.san:
        kinds = sorted(profile.san)
        if profile.server_dns or profile.sepp_names:
            kinds.sort(key=lambda kind: kind != "dns")
        elif profile.instance_uri:
            kinds.sort(key=lambda kind: kind != "uri")
        names = [_sample_name(profile, kind) for kind in kinds][: profile.san_max]
        extensions.append(Extension(OID.subjectAltName, False, asn1.tlv(0x30, *names)))
    if profile.nf_types:
        extensions.append(
            Extension(OID.nfTypes, False, nf_types_value(sorted(profile.nf_types)[:1]))
        )
    template = CertTemplate(
        subject_der=_sample_subject(profile),
        spki_der=key_der,
        extensions=tuple(extensions),
    )
    plan = issuer.check(template, profile, moment)
    tbs_der = issuer.build(plan, _SAMPLE_SERIAL)
    issuer.inspect(tbs_der, plan, profile, moment)
    algorithm = issuer.signer.algorithm
    signature: bytes = _throwaway_key(_signing_kind(algorithm)).sign(
        tbs_der, *signing_arguments(algorithm)
    )
    return asn1.tlv(0x30, tbs_der, algorithm.der, asn1.tlv(0x03, b"\x00", signature))


def _sample_host(profile: Profile) -> str:
    if profile.sepp_names or profile.subject_form is SubjectForm.network_function:
        return f"{'sepp' if profile.sepp_names else 'ne1'}.{_SAMPLE_HOME}"
    return _SAMPLE_VALUES["CN"]


def _sample_name(profile: Profile, kind: str) -> bytes:
    host = _sample_host(profile)
    if kind == "uri" and profile.instance_uri:
        return asn1.tlv(0x86, _SAMPLE_INSTANCE.encode())
    if kind in _SAMPLE_HOSTS:
        text = _SAMPLE_HOSTS[kind].format(host, host.partition(".")[2])
        return asn1.tlv(SAN_TAGS[kind], text.encode())
    return _SAMPLE_NAMES[kind]


def _sample_subject(profile: Profile) -> bytes:
    usual = [name for name in ("O", "CN") if name in (profile.allowed_subject or ("O", "CN"))]
    if OID.domainComponent in {ATTRIBUTES.get(name, name) for name in profile.required_subject}:
        usual = ["CN"]
    # An attribute may be named in both ways, by its short name and dotted.
    needed = {ATTRIBUTES.get(name, name): name for name in (*profile.required_subject, *usual)}
    values = [
        (dotted, _SAMPLE_VALUES.get(name, _SAMPLE_VALUE))
        for dotted, name in sorted(needed.items(), key=lambda item: _place(item[0]))
    ]
    if profile.subject_form is SubjectForm.network_function:
        home = (OID.organizationName, _SAMPLE_HOME)
        host = (OID.commonName, _sample_host(profile))
        own = {OID.organizationName: home, OID.commonName: host}
        values = [own.get(item[0], item) for item in values]
    if OID.domainComponent in needed:
        values.insert(0, (OID.domainComponent, "net"))
    return x509.Name(
        [x509.NameAttribute(asn1.oid(dotted), value) for dotted, value in values]
    ).public_bytes()


_ORDER: Final = (
    OID.domainComponent,
    OID.countryName,
    OID.organizationName,
    OID.organizationalUnitName,
    OID.commonName,
)


def _place(dotted: str) -> int:
    """Return where an attribute stands in a subject of the forms of TS 33.310."""
    return _ORDER.index(dotted) if dotted in _ORDER else len(_ORDER)


def _signing_kind(algorithm: SignatureAlgorithm) -> str:
    """Return a kind of key that makes signatures of an algorithm; for RSA and ECDSA a quick one."""
    family = algorithm.family
    return {"ec": "p256", "rsa": "rsa2048"}.get(family, family.replace("-", ""))


@lru_cache(maxsize=len(MAKERS))
def _throwaway_key(kind: str) -> Any:
    """Return a private key that is of no other use, made once per process."""
    return MAKERS[kind]()


def lint_certificate(profile: Profile, certificate_der: bytes) -> list[str]:
    """Return what a linter says of a certificate that was issued under a profile; empty is the good case."""
    from pkilint.validation import ValidationFindingSeverity

    validator, loader = _linter()
    found = []
    for result in validator.validate(loader.load_der_document(certificate_der, "sample").root):
        path = result.node.path
        for description in result.finding_descriptions:
            finding = description.finding
            if finding.severity > ValidationFindingSeverity.WARNING or path.startswith(WAIVED_PATH):
                continue
            waived, message = WAIVED.get(finding.code), description.message or ""
            if waived is None or not waived[0](profile, message):
                text = message and f": {message}"
                found.append(f"{finding.severity.name.lower()} {finding.code} at {path}{text}")
    return found


@lru_cache(maxsize=1)
def _linter() -> tuple[Any, Any]:
    """Return pkilint's validator of certificates and what loads them: the pieces of its `lint_pkix_cert`."""
    # Imported here: it takes longer than the start of the whole gateway, which need not have a CA.
    from pkilint.loader import RFC5280CertificateDocumentLoader
    from pkilint.pkix import certificate, extension, name

    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(
            name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
        ),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    return validator, RFC5280CertificateDocumentLoader()
