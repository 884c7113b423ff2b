"""What one value must be: names, files, URLs and templates, and the table they stand in."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final, Literal, TypeVar, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from ra_gateway.ca.postgres_url import PostgresURL, UnusableURL, parse_postgres_url
from ra_gateway.cmp.header_checks import Quirk
from ra_gateway.cmp.names import from_rfc4514

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

QUIRKS: Final[Mapping[Quirk, str]] = {
    Quirk.short_ids: "transactionID and senderNonce may be shorter than 16 octets (R5, R6).",
    Quirk.recip_nonce_in_ir: "recipNonce may be present in a first message; it is ignored (R7).",
    Quirk.no_message_time: "messageTime may be absent where the endpoint requires it (R29).",
    Quirk.any_cert_req_id: "certReqId may be any integer instead of 0; it is echoed (R47).",
    Quirk.no_subject: "The template may lack a subject, also in strict mode; it is derived (R141).",
    Quirk.missing_extracerts_in_certconf: "certConf and pollReq may come without a certificate, also in strict "
    "mode; the signer is that of the request (R34).",
    Quirk.sha1: "Messages, proofs of possession and vendor certificates may be signed with SHA-1 (R17, R146).",
    Quirk.rsa1024: "Vendor keys may be RSA of 1024 bits; no such key is certified (R19).",
}

BodyName = Literal["ir", "cr", "kur", "p10cr", "rr", "genm"]

PLACEHOLDERS: Final = ("cn", "serial_number", "o", "ou", "serial")
"""What templates take from a vendor certificate: four subject attributes and its serial number."""

OPERATOR_DOMAIN: Final = "operator"
"""The operator's trust domain; no vendor may have its name, which is part of transaction keys."""

CA_MATERIAL: Final = ("root.pem", "issuing.pem", "issuing.key", "cmp.pem", "cmp.key")
"""Files the bundled CA expects in `ca.directory_path`; those that end in .key are secrets."""

WELL_KNOWN_PATH: Final = "/.well-known/cmp"


def did_you_mean(word: object, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return a question with the known word nearest to one, after a blank; nothing if none is near."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def texts(raw: object) -> list[str]:
    """Return the texts in a raw list; none if it is no list."""
    return [item for item in raw if isinstance(item, str)] if isinstance(raw, list | tuple) else []


def served_paths(paths: object, profiles: object) -> Iterator[str]:
    """Yield the URL paths that an endpoint's raw paths and profiles stand for, without a slash at the end."""
    for path in texts(paths):
        yield path.rstrip("/") or "/"
    for profile in texts(profiles):
        yield f"{WELL_KNOWN_PATH}/p/{profile}"


def _wrong(what: str, todo: str) -> PydanticCustomError:
    # The texts travel in the context: in the template, braces would be taken for placeholders.
    return PydanticCustomError("setting", "{what}", {"what": what, "todo": todo})


def _resolve(path: Path, info: ValidationInfo) -> Path:
    return Path(info.context["directory"], path) if info.context else path


def _checks_files(info: ValidationInfo) -> bool:
    return bool(info.context and info.context["check_files"])


def _refuse_pem(path: Path) -> None:
    if "-----BEGIN" in str(path) or "\n" in str(path):
        raise _wrong(
            "holds the material itself, where the name of a file belongs",
            "Write the material to a file and give that file's path here.",
        )


def _shown(path: Path, secret: bool) -> str:
    return "the file it names (not shown: it might be the secret itself)" if secret else str(path)


def _check_file(path: Path, *, secret: bool) -> None:
    _refuse_pem(path)
    shown = _shown(path, secret)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a possible file name"
        raise _wrong(
            f"cannot use {shown}: {reason}",
            "Give the path of an existing file; a relative path starts at this file's directory.",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise _wrong(f"{shown} is not a file", "Give the path of a file.")
    if not os.access(path, os.R_OK):
        raise _wrong(
            f"{shown} may not be read", "Make it readable for the user the gateway runs as."
        )
    if status.st_size == 0:
        raise _wrong(f"{shown} is empty", "Write its content, or correct the path.")
    if secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _wrong(
            f"is a secret file with mode {stat.S_IMODE(status.st_mode):04o}: not its owner's alone",
            f"Run: chmod 600 {shlex.quote(str(path))}",
        )


def _public_file(path: Path, info: ValidationInfo) -> Path:
    _refuse_pem(path)
    path = _resolve(path, info)
    if _checks_files(info):
        _check_file(path, secret=False)
    return path


def _secret_file(path: Path, info: ValidationInfo) -> Path:
    _refuse_pem(path)
    path = _resolve(path, info)
    if _checks_files(info):
        _check_file(path, secret=True)
    return path


def _written_file(path: Path, info: ValidationInfo) -> Path:
    path = _resolve(path, info)
    if _checks_files(info):
        if not path.parent.is_dir():
            raise _wrong(
                f"the directory {path.parent} does not exist",
                "Create it; what is in it is made when it is needed.",
            )
        if not os.access(path.parent, os.W_OK):
            raise _wrong(
                f"the directory {path.parent} may not be written to",
                "Give the gateway's user that right.",
            )
    return path


def _ca_directory(path: Path, info: ValidationInfo) -> Path:
    path = _resolve(path, info)
    if not _checks_files(info):
        return path
    missing = [name for name in CA_MATERIAL if not (path / name).is_file()]
    if missing:
        raise _wrong(
            f"{path} lacks {', '.join(missing)}", "Create the CA's material with `ra-gateway init`."
        )
    for name in CA_MATERIAL:
        _check_file(path / name, secret=name.endswith(".key"))
    return path


def _dn(text: str) -> str:
    try:
        from_rfc4514(text)
    except ValueError:
        raise _wrong(
            "is not a distinguished name in the form of RFC 4514",
            'Write it like "CN=enb1.example.net,O=Example": most specific part first, no blank '
            'after a comma, dotted numbers for rarer attributes ("2.5.4.5=12" for serialNumber).',
        ) from None
    return text


def _fill(template: str, value: str) -> str:
    """Return a template with every placeholder, if they are known ones, replaced by a value."""
    parts = []
    try:
        pieces = list(Formatter().parse(template))
    except ValueError:
        raise _wrong("has an unpaired brace", "Write a placeholder as {cn}.") from None
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    for literal, name, spec, conversion in pieces:
        parts.append(literal)
        if name is None:
            continue
        if name not in PLACEHOLDERS or spec or conversion:
            raise _wrong(
                "has an unknown placeholder",
                f"Use only {known}.{did_you_mean(name, PLACEHOLDERS)}",
            )
        parts.append(value)
    return "".join(parts)


def _subject_template(template: str) -> str:
    _dn(_fill(template, "x"))
    return template


def _subject_pattern(pattern: str) -> str:
    _fill(pattern, "x")
    return pattern


def _san_kind(entry: str) -> None:
    if not entry.startswith(("dns:", "ip:")):
        raise _wrong("does not say what kind of name it is", 'Start it with "dns:" or "ip:".')


def _san_template(template: str) -> str:
    _san_kind(template)
    filled = _fill(template, "x")
    if template.startswith("ip:") and filled == template:
        try:
            ipaddress.ip_address(template.removeprefix("ip:"))
        except ValueError:
            raise _wrong(
                "is not an IP address", 'Write it like "ip:192.0.2.1" or "ip:2001:db8::1".'
            ) from None
    return template


def _san_pattern(pattern: str) -> str:
    _fill(pattern, "x")
    if pattern != "*":
        _san_kind(pattern)
    return pattern


def _url(text: str, schemes: tuple[str, ...]) -> str:
    todo = f"Write it like {schemes[0]}://host:port/path, starting with {' or '.join(schemes)}."
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _wrong("is not a URL", todo) from None
    if parts.scheme not in schemes or (parts.scheme != "unix" and not parts.hostname) or port == 0:
        raise _wrong("is not a usable URL", todo)
    return text


def _cmp_url(text: str) -> str:
    if "@" in urlsplit(_url(text, ("http", "https"))).netloc:
        raise _wrong(
            "holds a user name or a password",
            "Take it out: CMP messages are authenticated by their signature, not by HTTP.",
        )
    return text


def _api_url(text: str) -> str:
    parts = urlsplit(_url(text, ("https", "http")))
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _wrong(
            "is more than the address of an API",
            "Write it like https://ca.example.net:9000: no user, no password, no query.",
        )
    # What is sent there is authenticated by a token, which whoever listens could use.
    if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE:
        raise _wrong("is not https", "Write https://; http is for 127.0.0.1 only.")
    return text


_THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")


def _path_segments(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*/?", text):
        raise _wrong(
            "is not a part of a path",
            "Use letters, digits, ., - and _, with slashes between parts.",
        )
    return text


def _proxy_url(text: str) -> str:
    parts = urlsplit(_url(text, ("http",)))
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _wrong(
            "is more than the address of a proxy",
            "Write it like http://proxy.example.net:3128: no user, no password, no path.",
        )
    return text


def _crl_url(text: str) -> str:
    # A CRL is signed itself, and whoever checks the certificate of an https server needs a CRL.
    if not _url(text, ("http",)).isascii():
        raise _wrong("has other characters than ASCII", "Encode them with % (RFC 3986).")
    return text


def _fetched_url(text: str) -> str:
    if "@" in urlsplit(_url(text, ("http", "https"))).netloc:
        raise _wrong(
            "holds a user name or a password",
            "Take it out: CRLs and OCSP answers are public, and signed themselves.",
        )
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?", text):
        raise _wrong(
            "is not a host",
            'Write it in lower case like "crl.vendor.example" or "crl.vendor.example:8080": no scheme, no path.',
        )
    return text


def _redis_url(text: str) -> str:
    parts = urlsplit(_url(text, ("redis", "rediss", "unix")))
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise _wrong(
            "holds a password",
            "Write the URL to a file of mode 0600 and name that file in redis_url_path instead.",
        )
    return text


def _database_url(text: str) -> str:
    url = _postgres_url(text)
    if url.password is not None:
        raise _wrong(
            "holds a password",
            "Write the URL to a file of mode 0600 and name that file in ledger_url_path instead.",
        )
    return text


def _climbs(path: str) -> bool:
    """Tell whether a path has segments that HTTP clients and proxies take for steps, and not for names."""
    return not {".", ".."}.isdisjoint(path.split("/"))


def _ca_path(path: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._~/-]*", path) or "//" in path or _climbs(path):
        raise _wrong(
            "is not what may stand behind a URL",
            "Write the profile's or alias's name; letters, digits, and - . _ ~ with slashes between parts.",
        )
    return path


def _database_url_file(path: Path, info: ValidationInfo) -> Path:
    path = _secret_file(path, info)
    if _checks_files(info):
        try:
            text = path.read_text(encoding="utf-8").strip()
        except ValueError:
            text = ""
        _postgres_url(text)
    return path


def _postgres_url(text: str) -> PostgresURL:
    try:
        url = parse_postgres_url(text)
        url.tls_context()
    except UnusableURL as error:
        what, todo = str(error), error.todo
    else:
        return url
    # Outside of the except block: nothing of the URL is to be the context of an error.
    raise _wrong(f"{what} (the URL of the ledger's database)", f"{todo}.")


def _endpoint_path(path: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*", path) or "//" in path or _climbs(path):
        raise _wrong(
            "is not the path part of a URL",
            'Write it like "/ejbca/publicweb/cmp/ra": a slash first; no host, query or blanks.',
        )
    return path


Seconds = Annotated[float, Field(allow_inf_nan=False, gt=0)]
WholeSeconds = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
PublicPath = Annotated[Path, AfterValidator(_public_file)]
SecretPath = Annotated[Path, AfterValidator(_secret_file)]
DN = Annotated[str, AfterValidator(_dn)]
WrittenPath = Annotated[Path, AfterValidator(_written_file)]
CADirectory = Annotated[Path, AfterValidator(_ca_directory)]
SubjectTemplate = Annotated[str, AfterValidator(_subject_template)]
SubjectPattern = Annotated[str, AfterValidator(_subject_pattern)]
SANTemplate = Annotated[str, AfterValidator(_san_template)]
SANPattern = Annotated[str, AfterValidator(_san_pattern)]
CMPURL = Annotated[str, AfterValidator(_cmp_url)]
APIURL = Annotated[str, AfterValidator(_api_url)]
PathSegments = Annotated[str, AfterValidator(_path_segments)]
ProxyURL = Annotated[str, AfterValidator(_proxy_url)]
PublishedURL = Annotated[str, AfterValidator(_crl_url)]
FetchedURL = Annotated[str, AfterValidator(_fetched_url)]
Host = Annotated[str, AfterValidator(_host)]
RedisURL = Annotated[str, AfterValidator(_redis_url)]
DatabaseURL = Annotated[str, AfterValidator(_database_url)]
DatabaseURLPath = Annotated[Path, AfterValidator(_database_url_file)]
URLPath = Annotated[str, AfterValidator(_endpoint_path)]
CAPath = Annotated[str, AfterValidator(_ca_path)]

Row = TypeVar("Row")
Named = Mapping[Name, Row]


class Table(BaseModel):
    """A TOML table: unknown keys refused, nothing converted silently, never changed once loaded."""

    # hide_input: pydantic's own error text, should it ever be logged, must not repeat a secret.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
