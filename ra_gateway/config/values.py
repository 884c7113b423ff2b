"""What one value must be, beyond `ra_gateway.settings`: names, templates, and the URLs of everything but CAs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from ra_gateway import ldap
from ra_gateway.ca.derivation import require_crl_url
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.hosts import is_domain
from ra_gateway.cmp.identity import DOTTED_OID, PLACEHOLDERS, SERIAL_NUMBER_OR_FQDN, placeholders
from ra_gateway.cmp.names import (
    GENERAL_NAME_KINDS,
    plain_general_name,
    plain_rfc4514,
    unfit_attribute,
    unfit_general_name,
)
from ra_gateway.cmp.x520 import alternative_name_text_faults, subject_text_faults
from ra_gateway.errors import ConfigError
from ra_gateway.postgres_url import PostgresURL, UnusableURL, usable_postgres_url
from ra_gateway.redis_url import TODO as REDIS_TODO
from ra_gateway.redis_url import RedisURL, parse_redis_url
from ra_gateway.settings.files import check_file, checks_files, resolve, secret_file
from ra_gateway.settings.values import ByName, climbs, did_you_mean, require_dn, require_url, wrong

SignatureName = Literal[
    "rsa-pkcs1-sha256",
    "rsa-pkcs1-sha384",
    "rsa-pkcs1-sha512",
    "rsa-pss-sha256",
    "rsa-pss-sha384",
    "rsa-pss-sha512",
    "ecdsa-sha256",
    "ecdsa-sha384",
    "ecdsa-sha512",
    "ed25519",
    "ed448",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
    "rsa-pkcs1-sha1",
    "rsa-pss-sha1",
    "ecdsa-sha1",
    "rsa-pkcs1-md5",
]
LEGACY_SIGNATURES: Final[frozenset[SignatureName]] = frozenset(
    {"rsa-pkcs1-sha1", "rsa-pss-sha1", "ecdsa-sha1", "rsa-pkcs1-md5"}
)
DEFAULT_SIGNATURES: Final[tuple[SignatureName, ...]] = tuple(
    name for name in get_args(SignatureName) if name not in LEGACY_SIGNATURES
)

CurveName = Literal["P-256", "P-384", "P-521"]

RequestType = Annotated[BodyType, ByName(tuple(RESPONSE_TO))]
"""A message that opens a transaction."""

IdentityFrom = Literal[
    "serial_number_or_fqdn", "fqdn", "serial_number", "cn", "uid", "dn_qualifier"
]
"""What of a vendor certificate may name its device."""

DEFAULT_IDENTITY_FROM: Final[IdentityFrom] = SERIAL_NUMBER_OR_FQDN

OPERATOR_DOMAIN: Final = "operator"
"""The operator's trust domain; no vendor may have its name, which is part of transaction keys."""

CA_MATERIAL: Final = ("root.pem", "issuing.pem", "issuing.key", "cmp.pem", "cmp.key")
"""Files the bundled CA expects in `ca.directory_path`; those that end in .key are secrets."""

WELL_KNOWN_PATH: Final = "/.well-known/cmp"


def texts(raw: object) -> list[str]:
    """Return the texts in a raw list; none if it is no list."""
    return [item for item in raw if isinstance(item, str)] if isinstance(raw, list | tuple) else []


def served_paths(paths: object, profiles: object) -> Iterator[str]:
    """Yield the URL paths that an endpoint's raw paths and profiles stand for, without a slash at the end."""
    for path in texts(paths):
        yield path.rstrip("/") or "/"
    for profile in texts(profiles):
        yield f"{WELL_KNOWN_PATH}/p/{profile}"


def _ca_directory(path: Path, info: ValidationInfo) -> Path:
    path = resolve(path, info)
    if not checks_files(info):
        return path
    missing = [name for name in CA_MATERIAL if not (path / name).is_file()]
    if missing:
        raise wrong(
            f"{path} lacks {', '.join(missing)}", "Create the CA's material with `ra-gateway init`."
        )
    for name in CA_MATERIAL:
        check_file(path / name, secret=name.endswith(".key"))
    return path


def _fill(template: str, value: str) -> str:
    """Return a template with every placeholder, if they are known ones, replaced by a value."""
    parts = []
    try:
        pieces = placeholders(template)
    except ValueError as error:
        if "format" in str(error):
            raise _unknown_placeholder("") from None
        raise wrong("has an unpaired brace", "Write a placeholder as {cn}.") from None
    for literal, name in pieces:
        parts.append(literal)
        if name is None:
            continue
        if name not in PLACEHOLDERS and not DOTTED_OID.fullmatch(name):
            raise _unknown_placeholder(name)
        parts.append(value)
    return "".join(parts)


def _unknown_placeholder(name: str) -> PydanticCustomError:
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    return wrong(
        "has an unknown placeholder",
        f"Use only {known}, or an attribute's OID like {{2.5.4.13}}.{did_you_mean(name, PLACEHOLDERS)}",
    )


def _subject_template(template: str) -> str:
    require_dn(_fill(template, "xx"))
    for fault in subject_text_faults(template):
        raise wrong(f"gives names that cannot be certified: {fault}", "Write another value there.")
    return template


def _subject_pattern(pattern: str) -> str:
    _fill(pattern, "x")
    plain = plain_rfc4514(pattern)
    if why := unfit_attribute(plain):
        raise wrong(
            f"fits no subject: {why}",
            'Write it like "CN=*.ran.example.net,O=Example", with all attributes of the subject.',
        )
    return plain


def _san_kind(entry: str) -> None:
    if not entry.startswith(GENERAL_NAME_KINDS):
        kinds = ", ".join(f'"{kind}"' for kind in GENERAL_NAME_KINDS)
        raise wrong("does not say what kind of name it is", f"Start it with one of {kinds}.")


def _san_template(template: str) -> str:
    _san_kind(template)
    filled = _fill(template, "xx")
    if template.startswith("dn:"):
        require_dn(filled.removeprefix("dn:"))
    if filled == template and template.startswith("ip:"):
        try:
            ipaddress.ip_address(template.removeprefix("ip:"))
        except ValueError:
            raise wrong("is not an IP address", f"Write it like {_SAN_EXAMPLES['ip']}.") from None
    for fault in alternative_name_text_faults(template):
        kind = template.partition(":")[0]
        raise wrong(
            f"gives names that cannot be certified: {fault}",
            f"Write another value there, like {_SAN_EXAMPLES[kind]}.",
        )
    return template


_SAN_EXAMPLES: Final = {
    "dns": '"dns:enb1.example.net"',
    "ip": '"ip:192.0.2.1" or "ip:2001:db8::1"',
    "uri": '"uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"',
    "email": '"email:ran@example.net"',
    "dn": '"dn:CN=enb1,O=Example"',
}


def _san_name(name: str) -> str:
    if set(name) & set("*?{}"):
        raise wrong("is a pattern", 'Write the one name, like "dns:occm.example.net".')
    return _san_template(name)


def _san_pattern(pattern: str) -> str:
    _fill(pattern, "x")
    if pattern == "*":
        return pattern
    _san_kind(pattern)
    plain = plain_general_name(pattern)
    if why := unfit_general_name(plain):
        raise wrong(f"fits no name: {why}", f"Write it like {_SAN_EXAMPLES[plain.split(':')[0]]}.")
    return plain


def _crl_url(text: str) -> str:
    # A CRL is signed itself, and whoever checks the certificate of an https server needs a CRL.
    if urlsplit(text).scheme == "ldap":
        _crl_source(text.replace("{issuer}", "00"))
    elif not require_url(text, ("http",)).isascii():
        raise wrong("has other characters than ASCII", "Encode them with % (RFC 3986).")
    try:
        return require_crl_url(text, "")
    except ConfigError as error:
        raise wrong(error.problems[0].what, f"{error.problems[0].todo}.") from error


def _domain(text: str) -> str:
    if not is_domain(text):
        raise wrong("is no DNS domain", "Write it like ran.example.net, without *.")
    return text


def _ldap_server(text: str) -> str:
    parts = urlsplit(require_url(text, tuple(ldap.PORTS)))
    if "@" in parts.netloc or parts.path.strip("/") or parts.query:
        raise wrong(
            "is more than the address of a directory",
            "Write it like ldaps://ldap.example.net: DN and password have their own keys.",
        )
    return text


def _fetched_url(text: str) -> str:
    if "@" in urlsplit(require_url(text, ("http", "https"))).netloc:
        raise wrong(
            "holds a user name or a password",
            "Take it out: CRLs and OCSP answers are public, and signed themselves.",
        )
    return text


def _crl_source(text: str) -> str:
    if urlsplit(text).scheme not in ldap.PORTS:
        return _fetched_url(text)
    try:
        ldap.parse_url(text)
    except ValueError as error:
        todo = "Write it like ldap://HOST/cn=CA,o=Operator?certificateRevocationList;binary (RFC 4516)."
        raise wrong(str(error), todo) from None
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?", text):
        raise wrong(
            "is not a host",
            'Write it in lower case like "crl.vendor.example" or "crl.vendor.example:8080": no scheme, no path.',
        )
    return text


def _holds_password(key: str) -> PydanticCustomError:
    todo = f"Write the URL to a file of mode 0600 and name that file in {key} instead."
    return wrong("holds a password", todo)


def _redis_url(text: str) -> str:
    if _usable_redis_url(text).has_password:
        raise _holds_password("redis_url_path")
    return text


def _redis_url_file(path: Path, info: ValidationInfo) -> Path:
    path = secret_file(path, info)
    if checks_files(info):
        _usable_redis_url(path.read_text(encoding="utf-8-sig", errors="replace").strip())
    return path


def _usable_redis_url(text: str) -> RedisURL:
    try:
        return parse_redis_url(text)
    except ValueError as error:
        problem = str(error)
    raise wrong(problem, f"{REDIS_TODO}.")


def _database_url(text: str) -> str:
    if _postgres_url(text).password is not None:
        raise _holds_password("ledger_url_path")
    return text


def _database_url_file(path: Path, info: ValidationInfo) -> Path:
    path = secret_file(path, info)
    if checks_files(info):
        try:
            text = path.read_text(encoding="utf-8-sig").strip()
        except ValueError:
            text = ""
        _postgres_url(text)
    return path


def _postgres_url(text: str) -> PostgresURL:
    url = usable_postgres_url(text)
    if isinstance(url, UnusableURL):
        raise wrong(f"{url} (the URL of the database)", f"{url.todo}.")
    return url


def _issued_subject_pattern(pattern: str) -> str:
    """Check a pattern over subjects of certificates that were issued: no vendor certificate is at hand then."""
    if "{" in pattern:
        raise wrong(
            "has a placeholder, which nothing fills in here",
            'Write * in its place, like "CN=*.ran.example.net,O=Example".',
        )
    return _subject_pattern(pattern)


def _listen_host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # Digits and dots alone would be looked up as a name, or be taken for another address.
        if not re.fullmatch(r"\w([\w.-]*\w)?", text, re.ASCII) or not re.search("[^0-9.]", text):
            todo = (
                'Write an address of this machine, like "192.0.2.7", or "0.0.0.0" or "::" for all.'
            )
            raise wrong("is neither an IP address nor the name of a host", todo) from None
    return text


def _server_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", text):
        raise wrong(
            "is not the name of a host",
            'Write it in lower case like "gateway.example.net": no scheme, no port.',
        )
    return text


def _endpoint_path(path: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*", path) or "//" in path or climbs(path):
        raise wrong(
            "is not the path part of a URL",
            'Write it like "/ejbca/publicweb/cmp/ra": a slash first; no host, query or blanks.',
        )
    return path


CADirectory = Annotated[Path, AfterValidator(_ca_directory)]
SubjectTemplate = Annotated[str, AfterValidator(_subject_template)]
IssuedSubjectPattern = Annotated[str, AfterValidator(_issued_subject_pattern)]
SubjectPattern = Annotated[str, AfterValidator(_subject_pattern)]
SANTemplate = Annotated[str, AfterValidator(_san_template)]
SANName = Annotated[str, AfterValidator(_san_name)]
SANPattern = Annotated[str, AfterValidator(_san_pattern)]
Domain = Annotated[str, AfterValidator(_domain)]
PublishedURL = Annotated[str, AfterValidator(_crl_url)]
FetchedURL = Annotated[str, AfterValidator(_fetched_url)]
LDAPServer = Annotated[str, AfterValidator(_ldap_server)]
CRLSource = Annotated[str, AfterValidator(_crl_source)]
Host = Annotated[str, AfterValidator(_host)]
RedisAddress = Annotated[str, AfterValidator(_redis_url)]
RedisURLPath = Annotated[Path, AfterValidator(_redis_url_file)]
DatabaseURL = Annotated[str, AfterValidator(_database_url)]
DatabaseURLPath = Annotated[Path, AfterValidator(_database_url_file)]
SQLTable = Annotated[
    str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}$")
]
ServerName = Annotated[str, AfterValidator(_server_name)]
ListenHost = Annotated[str, AfterValidator(_listen_host)]
URLPath = Annotated[str, AfterValidator(_endpoint_path)]
