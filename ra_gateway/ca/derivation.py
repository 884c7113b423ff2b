"""Certificate profiles of the operator's own: a built-in one, and what is different (`[ca.profiles.NAME]`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from ra_gateway.ca.profiles import (
    ALL_KEY_KINDS,
    ANY_KEY_USAGES,
    ATTRIBUTES,
    EC_KEY_USAGES,
    END_ENTITY_KEY_USAGES,
    MAX_RSA_BITS,
    MIN_RSA_EXPONENT,
    PROFILES,
    PURPOSES,
    RSA_KEY_USAGES,
    SAN_TAGS,
    Profile,
    SubjectForm,
)
from ra_gateway.ca.records import DEFAULT_PROFILE
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import KEY_USAGES, KeyUsage
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES
from ra_gateway.cmp.hosts import is_domain
from ra_gateway.errors import ConfigError, Problem


def derive(base: Profile, name: str, /, **changes: object) -> Profile:
    """Return a profile that is like another but for some fields, as a table `[ca.profiles.NAME]` gives them.

    Args:
        name: Letters, digits, `_`, `-` and `.`; none of the built-in ones.
        changes: Values as TOML has them:
            validity_days           integer, from 1 to what the base allows (3650; nf: 1095)
            key_usage               list of names out of `END_ENTITY_KEY_USAGES`, with digitalSignature; what only RSA
                                    or only EC keys can have is given to those alone
            extended_key_usage      list of names out of `PURPOSES` or dotted OIDs: given if none is asked for
            allowed_extended_key_usage  the same: those that may be asked for; by default extended_key_usage
            key_kinds               list out of `ALL_KEY_KINDS`
            min_rsa_exponent        integer, from 3 to 65537
            max_rsa_bits            integer, from 2048 to 16384
            stronger_keys           boolean
            subject_form            one of `SubjectForm`
            domains                 list of DNS domains, empty for any
            organisations           list of values of O, empty for any
            required_subject        list of names out of `ATTRIBUTES` or dotted OIDs
            allowed_subject         the same; empty allows all
            san                     list out of `SAN_TAGS`: email, dns, dn, uri, ip; empty: no SubjectAltName
            san_required            boolean
            san_max                 integer, from 1 to 100
            server_dns              boolean
            sepp_names              boolean
            instance_uri            boolean
            crl_required            boolean
            nf_types                list of names, empty for no such extension
            nf_types_required       boolean
            crl_urls                list of http or ldap URLs, `{issuer}` in them as `Profile` says
            delta_crl_url           http or ldap URL, "" for none
            ocsp_url, ca_issuers_url  http URL, "" for none
            certificate_policies    list of dotted OIDs

    Raises:
        ConfigError: Whatever is wrong with these, all of it at once.
    """
    where = f"ca.profiles.{name}"
    problems = _name_problems(where, name)
    fields: dict[str, object] = {}
    for key, value in changes.items():
        reader = _READERS.get(key)
        if reader is None:
            problems.append(
                Problem(
                    f"{where}.{key}",
                    "is no field of a profile",
                    f"Take it out, or choose among base, {', '.join(_READERS)}",
                )
            )
            continue
        try:
            fields.update(reader(base, value))
        except _WrongValue as error:
            problems.append(Problem(f"{where}.{key}", error.what, error.todo))
    if problems:
        raise ConfigError(problems)
    if "purposes" in fields and "allowed_purposes" not in fields:
        fields["allowed_purposes"] = frozenset(_strings(fields["purposes"]))
    # The fields were read by type above, each by the reader that makes it.
    derived = replace(base, name=name, **fields)  # type: ignore[arg-type]
    problems = list(_contradictions(where, derived))
    if problems:
        raise ConfigError(problems)
    return derived


def _name_problems(where: str, name: str) -> list[Problem]:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is None:
        return [
            Problem(
                where,
                "is no name for a profile",
                "Use up to 64 letters, digits, dots, hyphens and underscores, "
                "a letter or digit first",
            )
        ]
    if name in PROFILES or name == DEFAULT_PROFILE:
        return [
            Problem(where, "is the name of a built-in profile", "Give the derived one another name")
        ]
    return []


def _contradictions(where: str, profile: Profile) -> Iterable[Problem]:
    """Yield what the fields of a profile, each of them right by itself, say against each other."""
    ungranted = sorted(set(profile.purposes) - profile.allowed_purposes)
    if ungranted:
        yield Problem(
            f"{where}.allowed_extended_key_usage",
            f"lacks {_listed(ungranted)}, which extended_key_usage gives",
            "List there what is given unasked as well",
        )
    if profile.allowed_subject:
        missing = set(profile.required_attributes) - profile.allowed_attributes
        if missing:
            yield Problem(
                f"{where}.allowed_subject",
                f"lacks {_listed(profile.required_attributes[oid] for oid in missing)}, "
                "which required_subject demands",
                "List there what is required as well, or leave it empty to allow all",
            )
    if profile.san_required and not profile.san:
        yield Problem(
            f"{where}.san",
            "is empty, but a SubjectAltName is required",
            'List kinds of names, such as ["dns", "ip"], or set san_required to false',
        )
    for kind, field in (("dns", "server_dns"), ("dns", "sepp_names"), ("uri", "instance_uri")):
        if profile.san and kind not in profile.san and getattr(profile, field):
            yield Problem(
                f"{where}.san",
                f"lacks {kind}, which {field} demands",
                f"List {kind} there, or set {field} to false",
            )
    if profile.nf_types_required and not profile.nf_types:
        yield Problem(
            f"{where}.nf_types",
            "is empty, but nfTypes are required",
            'List types, such as ["AMF", "SMF"], or set nf_types_required to false',
        )
    if profile.delta_crl_url and not profile.crl_urls:
        yield Problem(
            f"{where}.delta_crl_url",
            "is set without crl_urls, and a delta CRL is of no use without the full one",
            "Set crl_urls too, or take delta_crl_url out",
        )


class _WrongValue(Exception):
    """A value of a profile's field that cannot be used."""

    def __init__(self, what: str, todo: str) -> None:
        self.what = what
        self.todo = todo


def _validity_days(base: Profile, value: object) -> dict[str, object]:
    longest = base.longest_validity_days
    return {"validity_days": _number(value, longest, f"as {base.name} allows")}


def _key_usage(base: Profile, value: object) -> dict[str, object]:
    names = _strings(value)
    _require_known("key usage of an end entity", names, END_ENTITY_KEY_USAGES)
    bits = frozenset(map(KEY_USAGES.index, names))
    if KeyUsage.digitalSignature not in bits:
        raise _WrongValue(
            "lacks digitalSignature, which enrolment, IKE and TLS all need",
            "Add digitalSignature",
        )
    return {
        "key_usage": bits & ANY_KEY_USAGES,
        "rsa_key_usage": bits & RSA_KEY_USAGES,
        "ec_key_usage": bits & EC_KEY_USAGES,
    }


def _purposes(base: Profile, value: object) -> tuple[str, ...]:
    dotted = tuple(PURPOSES.get(name, name) for name in _strings(value))
    _require_oids("extended key usage", dotted, PURPOSES)
    privileged = PRIVILEGED_PURPOSES.intersection(dotted) - base.allowed_purposes
    if privileged:
        raise _WrongValue(
            f"holds {_listed(privileged)}, which lets a key speak for the PKI itself",
            "Derive from ra, cmp_signer or ocsp_signer, if that is meant, or take it out",
        )
    return dotted


def _key_kinds(base: Profile, value: object) -> dict[str, object]:
    names = _strings(value)
    if not names:
        raise _WrongValue("is empty", f"Choose among {_listed(ALL_KEY_KINDS)}")
    _require_known("kind of key", names, ALL_KEY_KINDS)
    return {"key_kinds": frozenset(names)}


def _attributes(value: object) -> tuple[str, ...]:
    names = _strings(value)
    _require_oids("attribute", [ATTRIBUTES.get(name, name) for name in names], ATTRIBUTES)
    return names


def _san(base: Profile, value: object) -> dict[str, object]:
    names = _strings(value)
    _require_known("kind of name", names, SAN_TAGS)
    return {"san": frozenset(names)}


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongValue(f"is {value!r}, not a boolean", "Write true or false")
    return value


def _policies(value: object) -> tuple[str, ...]:
    dotted = _strings(value)
    _require_oids("certificate policy", dotted, {})
    return dotted


MAX_SAN_NAMES: Final = 100
"""Most that `san_max` may allow: certificates with more names no longer fit into IKE messages anyway."""

_READERS: Final[Mapping[str, Callable[[Profile, object], dict[str, object]]]] = MappingProxyType(
    {
        "validity_days": _validity_days,
        "key_usage": _key_usage,
        "extended_key_usage": lambda base, value: {"purposes": _purposes(base, value)},
        "allowed_extended_key_usage": lambda base, value: {
            "allowed_purposes": frozenset(_purposes(base, value))
        },
        "key_kinds": _key_kinds,
        "min_rsa_exponent": lambda _, value: {
            "min_rsa_exponent": _number(value, MIN_RSA_EXPONENT, least=3)
        },
        "max_rsa_bits": lambda _, value: {
            "max_rsa_bits": _number(value, 2 * MAX_RSA_BITS, least=2048)
        },
        "stronger_keys": lambda _, value: {"stronger_keys": _flag(value)},
        "subject_form": lambda _, value: {"subject_form": _form(value)},
        "domains": lambda _, value: {"domains": _domains(value)},
        "organisations": lambda _, value: {"organisations": _strings(value)},
        "required_subject": lambda _, value: {"required_subject": _attributes(value)},
        "allowed_subject": lambda _, value: {"allowed_subject": frozenset(_attributes(value))},
        "san": _san,
        "san_required": lambda _, value: {"san_required": _flag(value)},
        "san_max": lambda _, value: {"san_max": _number(value, MAX_SAN_NAMES)},
        "server_dns": lambda _, value: {"server_dns": _flag(value)},
        "sepp_names": lambda _, value: {"sepp_names": _flag(value)},
        "instance_uri": lambda _, value: {"instance_uri": _flag(value)},
        "crl_required": lambda _, value: {"crl_required": _flag(value)},
        "nf_types": lambda _, value: {"nf_types": _nf_types(value)},
        "nf_types_required": lambda _, value: {"nf_types_required": _flag(value)},
        "crl_urls": lambda _, value: {
            "crl_urls": tuple(_url(url, ("http", "ldap")) for url in _strings(value))
        },
        "delta_crl_url": lambda _, value: {"delta_crl_url": _url_or_none(value, ("http", "ldap"))},
        "ocsp_url": lambda _, value: {"ocsp_url": _url_or_none(value, ("http",))},
        "ca_issuers_url": lambda _, value: {"ca_issuers_url": _url_or_none(value, ("http",))},
        "certificate_policies": lambda _, value: {"certificate_policies": _policies(value)},
    }
)
"""Fields of a table `[ca.profiles.NAME]`, besides `base`, and what makes fields of a Profile of their values."""


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise _WrongValue(f"is {value!r}, not a list of strings", 'Write it like ["one", "two"]')
    twice = {item for item in value if value.count(item) > 1}
    if twice:
        raise _WrongValue(f"names {_listed(twice)} twice", "Name each once")
    return tuple(value)


def _form(value: object) -> SubjectForm:
    try:
        return SubjectForm(str(value))
    except ValueError:
        known = _listed(SubjectForm)
        raise _WrongValue(f"is {value!r}, no form of a subject", f"Choose among {known}") from None


def _domains(value: object) -> tuple[str, ...]:
    names = _strings(value)
    wrong = [name for name in names if not is_domain(name)]
    if wrong:
        raise _WrongValue(
            f"holds {_listed(wrong)}, which is no DNS domain", 'Write it like "ran.example.net"'
        )
    return names


def _nf_types(value: object) -> frozenset[str]:
    names = _strings(value)
    wrong = [name for name in names if re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) is None]
    if wrong:
        raise _WrongValue(
            f"holds {_listed(wrong)}, which is no type of a network function",
            "Write it as TS 29.510 6.1.6.3.3 does, such as AMF",
        )
    return frozenset(names)


def _number(value: object, most: int, why: str = "", *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _WrongValue(
            f"is {value!r}, not a whole number from {least} to {most}{why and ', ' + why}",
            "Give a number in that range",
        )
    return value


def require_crl_url(text: str, setting: str, *, placeholder: bool = True) -> str:
    """Return a URL that can be a CRL's in a certificate.

    Args:
        placeholder: Whether `{issuer}` may be in it, as `Profile` says.

    Raises:
        ConfigError: It cannot.
    """
    try:
        return _url(text, ("http", "ldap"), placeholder=placeholder)
    except _WrongValue as error:
        raise ConfigError.of(setting, error.what, error.todo) from error


def _url_or_none(value: object, schemes: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise _WrongValue(f"is {value!r}, not a string", "Write a URL in quotes")
    return value and _url(value, schemes)


def _url(text: str, schemes: tuple[str, ...], *, placeholder: bool = True) -> str:
    # No https: whoever checks the certificate of that server would first need what is behind this URL.
    filled = text.replace("{issuer}", "00") if placeholder else text
    try:
        parts = urlsplit(filled)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if (
        not good
        or re.fullmatch(r"[\x21-\x7e]+", filled) is None
        or re.search(r'[<>"{}|\\^`]', filled)
    ):
        raise _WrongValue(
            f"holds {text!r}, which is no URL that can stand there",
            f"Give a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)} and a "
            f"host, in ASCII, without blanks; {'{issuer} is the only' if placeholder else 'there is no'} placeholder",
        )
    return text


def _require_known(what: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _WrongValue(
            f"holds {_listed(unknown)}, which is no {what}", f"Choose among {_listed(known)}"
        )


def _require_oids(what: str, dotted: Iterable[str], names: Collection[str]) -> None:
    wrong = [oid for oid in dotted if not _is_oid(oid)]
    if wrong:
        known = f"Choose among {_listed(names)}, or write" if names else "Write"
        raise _WrongValue(
            f"holds {_listed(wrong)}, which is no {what}", f"{known} a dotted OID such as 1.2.3.4"
        )


def _is_oid(text: str) -> bool:
    if re.fullmatch(r"[0-2](\.(0|[1-9][0-9]{0,17}))+", text) is None:
        return False
    try:
        asn1.oid_der(text)
    except ValueError:
        return False
    return True


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
