"""The configuration file: what may stand in it, and everything that is wrong with one.

`load` reads TOML into frozen pydantic models. Shape, ranges, cross-references, and existence and
permissions of files are checked here, all of them before anything is reported; certificates are
parsed by `app`, not here.

There are two kinds of checks. What one value must be stands at its field. What several values must
be together stands in a rule (`_RULES`) over the raw tables, so that it is reported even when
another value of the same table is wrong.

Secrets never stand in the file: it names files that only their owner may read. The text of a
`Problem` therefore never repeats a value that might be a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Formatter
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.errors import ConfigError, Problem

# --- What one value must be -----------------------------------------------------------------------

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

QuirkName = Literal[
    "short_ids",
    "recip_nonce_in_ir",
    "no_message_time",
    "any_cert_req_id",
    "no_subject",
]
QUIRKS: Final[Mapping[QuirkName, str]] = {
    "short_ids": "transactionID and senderNonce may be shorter than 16 octets (R5, R6).",
    "recip_nonce_in_ir": "recipNonce may be present in a first message; it is ignored (R7).",
    "no_message_time": "messageTime may be absent where the endpoint requires it (R29).",
    "any_cert_req_id": "certReqId may be any integer instead of 0; it is echoed (R47).",
    "no_subject": "The template may lack a subject, also in strict mode; it is derived (R141).",
}

BodyName = Literal["ir", "cr", "kur", "p10cr", "rr", "genm"]

PLACEHOLDERS: Final = ("cn", "serial_number", "o", "ou", "serial")
"""What templates take from a vendor certificate: four subject attributes and its serial number."""

OPERATOR_DOMAIN: Final = "operator"
"""The operator's trust domain; no vendor may have its name, which is part of transaction keys."""

CA_MATERIAL: Final = ("root.pem", "issuing.pem", "issuing.key", "cmp.pem", "cmp.key")
"""Files the bundled CA expects in `ca.directory_path`; those that end in .key are secrets."""

WELL_KNOWN_PATH: Final = "/.well-known/cmp"


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
                "Create it; the file is made at the start.",
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
                f"Use only {known}.{_did_you_mean(name, PLACEHOLDERS)}",
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


def _crl_url(text: str) -> str:
    # A CRL is signed itself, and whoever checks the certificate of an https server needs a CRL.
    if not _url(text, ("http",)).isascii():
        raise _wrong("has other characters than ASCII", "Encode them with % (RFC 3986).")
    return text


def _fetched_url(text: str) -> str:
    if "@" in urlsplit(_url(text, ("http", "https"))).netloc:
        raise _wrong(
            "holds a user name or a password",
            "Take it out: CRLs are public, and signed themselves.",
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
    parts = urlsplit(_url(text, ("postgresql",)))
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise _wrong(
            "holds a password",
            "Write the URL to a file of mode 0600 and name that file in ledger_url_path instead.",
        )
    return text


def _endpoint_path(path: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*", path) or "//" in path:
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


Row = TypeVar("Row")
Named = Mapping[Name, Row]


class _Table(BaseModel):
    """A TOML table: unknown keys refused, nothing converted silently, never changed once loaded."""

    # hide_input: pydantic's own error text, should it ever be logged, must not repeat a secret.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


# --- The tables -----------------------------------------------------------------------------------


class ServerConfig(_Table):
    """The HTTP listener for CMP, and what it bears before it says no."""

    listen_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. The default is reachable from this machine only; "
        '"0.0.0.0" or "::" listens on all.',
    )
    listen_port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        description="TCP port; 0 takes a free one. The default needs no root rights and is the "
        "port of many CMP servers.",
    )
    max_body_bytes: int = Field(
        default=65536,
        ge=4096,
        le=16_777_216,
        description="Largest request body, in bytes; more is answered with 413. An ML-DSA chain "
        "of three exceeds 20 kB; the default leaves three times that.",
    )
    header_timeout_seconds: Seconds = Field(
        default=10.0,
        le=300,
        description="Time for a client to send its request line and headers, in seconds. A base "
        "station sends them in one packet; the default covers two TCP retransmissions on a bad "
        "link.",
    )
    body_timeout_seconds: Seconds = Field(
        default=10.0,
        le=300,
        description="Time for a client to send the body, in seconds. The default asks for some "
        "6.5 kB/s at the largest body.",
    )
    idle_timeout_seconds: Seconds = Field(
        default=75.0,
        le=3600,
        description="Time a kept-alive connection may stay unused, in seconds. The default is the "
        "usual one of HTTP servers (nginx), and covers the pause between ip and certConf.",
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Most open connections; further ones are closed at once. The default "
        "serves a site of a thousand base stations that starts at once; the process's limit of "
        "open files (ulimit -n) must be some 100 above it.",
    )
    max_requests_in_flight: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Most requests worked on at a time; more are answered with 503. The default "
        "is four times the 64 connections to an upstream: a short queue for the CA, not a long "
        "one.",
    )
    drain_seconds: Seconds = Field(
        default=30.0,
        le=600,
        description="Time after SIGTERM for accepted requests to be answered, in seconds. The "
        "default is twice an upstream's deadline, and what Kubernetes grants a pod.",
    )


class CAServerConfig(ServerConfig):
    """The HTTP listener of `ra-gateway ca serve`; as `[server]`, on another port."""

    listen_port: int = Field(
        default=8081,
        ge=0,
        le=65535,
        description="TCP port; 0 takes a free one. The default is the one beside the gateway's.",
    )


class LogConfig(_Table):
    """What is written about every request; never keys, secrets or message bodies."""

    format: Literal["json", "console"] = Field(
        default="json",
        description="One JSON object per line for machines, or coloured lines for a terminal.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description='Least severity that is written; "info" has one line per request.',
    )


class StoreConfig(_Table):
    """Where transactions are kept: in this process, or in Redis across processes and restarts."""

    kind: Literal["memory", "redis"] = Field(
        default="memory",
        description='"memory" serves one process and forgets at its end; "redis" serves any '
        "number and survives.",
    )
    redis_url_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="File that holds the Redis URL with its password, like "
        "redis://:password@host:6379/0; mode 0600. Required for redis, unless `redis_url` is "
        "given.",
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        default=None,
        repr=False,
        description="The Redis URL itself; only without a password. Not together with "
        "`redis_url_path`.",
    )
    key_prefix: Name = Field(
        default="ra_gateway",
        description="First part of every Redis key; gateways with the same prefix share their "
        "transactions.",
    )
    max_transactions: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Most transactions the memory store keeps; more are refused with "
        "systemUnavail. At some 10 kB each (request, answer, certificates) the default is about 1 "
        "GB.",
    )
    transaction_lifetime_seconds: WholeSeconds = Field(
        default=3600,
        ge=60,
        le=604_800,
        description="How long a transaction is remembered, in seconds: until then a repeat gets "
        "the same answer and certConf is accepted. The default lets a base station reboot and try "
        "again.",
    )
    redis_timeout_seconds: Seconds = Field(
        default=2.0,
        le=60,
        description="Time for one Redis command, in seconds; then the device gets systemUnavail. "
        "Redis usually answers within a millisecond; the default leaves the rest of a device's "
        "patience (some 30 s) to the CA.",
    )
    redis_max_connections: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most connections to Redis; further commands wait for one within their time. "
        "A command takes a millisecond, so the default serves some 64,000 a second.",
    )


class RAConfig(_Table):
    """The gateway's own credential: signs towards the CA and towards devices."""

    certificate_path: PublicPath = Field(
        description="RA certificate, PEM. It needs digitalSignature, and must chain to the "
        "operator root that devices receive.",
    )
    key_path: SecretPath = Field(
        repr=False,
        description="Its private key, PEM (PKCS#8), or one line that names a key in an HSM "
        "(docs/hsm.md); mode 0600.",
    )
    key_password_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="File with the key's password (a newline at its end is dropped); mode 0600. "
        "Without it the key must be unencrypted.",
    )
    chain_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Intermediate CA certificates from the RA certificate's issuer up to, but "
        "without, the root; sent to devices and to the CA in extraCerts.",
    )


class AlgorithmsConfig(_Table):
    """What signatures and keys may be: in protection, proof of possession and certificates."""

    signatures: tuple[SignatureName, ...] = Field(
        default=DEFAULT_SIGNATURES,
        min_length=1,
        description="Signature algorithms that are accepted; others get badAlg. The legacy ones "
        "(SHA-1, MD5) count only when listed here.",
    )
    min_rsa_bits: int = Field(
        default=2048,
        ge=1024,
        le=16384,
        description="Smallest RSA modulus, in bits; smaller keys get badAlg. The default is the "
        "least TS 33.310 lets be used; 1024 is for old devices only.",
    )
    curves: tuple[CurveName, ...] = Field(
        default=get_args(CurveName),
        description="Elliptic curves that are accepted for ECDSA keys; empty for none.",
    )


class RevocationConfig(_Table):
    """How it is known which of a trust domain's certificates were revoked."""

    mode: Literal["off", "soft", "hard"] = Field(
        default="off",
        description='"off": nobody is asked; "soft": a revoked signer is refused, and one of which '
        'nobody can tell is accepted, with a note in the log; "hard": that one is refused too, with '
        "systemUnavail, until there is a fresh CRL of every CA above it.",
    )
    crl_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Files with CRLs, DER or PEM, looked at every 10 s; replace them by renaming.",
    )
    crl_urls: tuple[Annotated[str, AfterValidator(_fetched_url)], ...] = Field(
        default=(),
        description="http or https URLs of CRLs; fetched before the gateway listens, and then in the "
        "background. Redirects are not followed.",
    )
    from_certificates: bool = Field(
        default=False,
        description="Whether CRLs are also fetched from the URLs that this domain's certificates name "
        "(CRLDistributionPoints), once such a certificate protected a message. The first message of "
        "each CA is then refused in hard mode, and its repeat taken.",
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(
        default=(),
        description='Hosts that URLs of certificates may name, like "crl.vendor.example" (usual port) or '
        '"crl.vendor.example:8080"; no others are ever connected to. Needed for `from_certificates`.',
    )
    refresh_seconds: WholeSeconds = Field(
        default=3600,
        le=604_800,
        description="From one fetch to the next, in seconds; earlier when nextUpdate comes first or a "
        "fetch failed (after 15 s, then twice as long each time). The default bounds how late a "
        "revocation is heard of to what most CAs need to publish it.",
    )
    timeout_seconds: Seconds = Field(
        default=10.0,
        le=300,
        description="Time for one fetch, in seconds; the start waits for it once. The default is enough "
        "for a CRL of 100,000 entries (5 MB) at 4 Mbit/s.",
    )
    max_crl_bytes: int = Field(
        default=20_000_000,
        ge=1024,
        le=1_000_000_000,
        description="Largest CRL, in bytes; a larger one is refused. The default holds some 400,000 "
        "entries, which take some 50 MB of memory.",
    )
    grace_seconds: Annotated[int, Field(ge=0)] = Field(
        default=0,
        le=2_592_000,
        description="How long after its nextUpdate a CRL is still good, in seconds: for issuers that are "
        "late. The default takes nextUpdate at its word.",
    )
    max_age_seconds: Annotated[int, Field(ge=0)] = Field(
        default=0,
        le=31_536_000,
        description="Longest time since its thisUpdate that a CRL is good, in seconds, whatever its "
        "nextUpdate says; 0, the default, for no such limit. A CRL without nextUpdate is good only "
        "with it.",
    )


class OperatorConfig(_Table):
    """The operator's trust domain: signers of kur (and cr), and issuer of what devices receive."""

    anchors_paths: tuple[PublicPath, ...] = Field(
        min_length=1,
        description="Operator root certificates, PEM; two during a change of the root.",
    )
    intermediates_paths: tuple[PublicPath, ...] = Field(
        default=(), description="Issuing CA certificates below the roots, PEM."
    )
    algorithms: AlgorithmsConfig = Field(
        default=AlgorithmsConfig(),
        description="What signatures and keys of operator certificates may be.",
    )
    revocation: RevocationConfig = Field(
        default=RevocationConfig(),
        description="How it is known which operator certificates were revoked. What the bundled CA in "
        "this process revoked is known at once, whatever stands here.",
    )


class IdentityConfig(_Table):
    """Which subject and names a vendor's devices may get."""

    subject: Literal["keep", "derive", "replace"] = Field(
        default="keep",
        description='"keep": the subject the device asks for, refused when absent; "derive": the '
        'same, but made from `subject_template` when absent; "replace": always from the inventory '
        "or `subject_template`. A subject that is changed voids the device's proof of possession: "
        "the gateway verifies it first and says raVerified to the CA.",
    )
    subject_template: Annotated[str, AfterValidator(_subject_template)] | None = Field(
        default=None,
        description="Subject to make, in the form of RFC 4514, like "
        '"CN={cn}.ran.example.net,O=Example", with placeholders from the vendor certificate. '
        "Required for derive and replace, unless the inventory is required.",
    )
    allowed_subjects: tuple[Annotated[str, AfterValidator(_subject_pattern)], ...] = Field(
        default=(),
        description="Patterns (* and ?) over the RFC 4514 form of a subject the device asks for, "
        'each wildcard within one attribute ("*" alone allows every subject); '
        "may hold the same placeholders. Empty allows none; needed for keep and derive.",
    )
    san_template: tuple[Annotated[str, AfterValidator(_san_template)], ...] = Field(
        default=(),
        description='SubjectAltName entries to put in, like "dns:{cn}.ran.example.net" or '
        '"ip:192.0.2.1".',
    )
    allowed_sans: tuple[Annotated[str, AfterValidator(_san_pattern)], ...] = Field(
        default=(),
        description="Patterns over SubjectAltName entries the device asks for, like "
        '"dns:*.ran.example.net"; empty allows none; a wildcard name is never allowed.',
    )
    inventory: Literal["none", "optional", "required"] = Field(
        default="none",
        description='"required" refuses devices that `[inventory]` does not list; "optional" lets '
        "an entry, where there is one, decide.",
    )
    identity_from: Literal["serial_number", "cn"] = Field(
        default="serial_number",
        description="Subject attribute of the vendor certificate that names the device in the "
        "inventory.",
    )
    same_key: bool = Field(
        default=True,
        description="Whether the key of the vendor certificate itself may be certified: TS 33.310 "
        "lets a base station enrol its pre-provisioned key.",
    )


class VendorConfig(_Table):
    """The trust domain of one manufacturer: whose devices may ask for a first certificate."""

    enabled: bool = Field(
        default=True, description="false refuses this vendor's devices without losing its settings."
    )
    anchors_paths: tuple[PublicPath, ...] = Field(
        min_length=1,
        description="The vendor's root certificates, PEM. Nothing else is trusted for its devices.",
    )
    intermediates_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="The vendor's sub-CA certificates, PEM, for devices that do not send them.",
    )
    algorithms: AlgorithmsConfig = Field(
        default=AlgorithmsConfig(),
        description="What signatures and keys of this vendor's devices may be.",
    )
    quirks: tuple[QuirkName, ...] = Field(
        default=(),
        description="Rules this vendor's devices break and are forgiven for; each use is logged.",
    )
    revocation: RevocationConfig = Field(
        default=RevocationConfig(),
        description="How it is known which of this vendor's certificates were revoked.",
    )
    identity: IdentityConfig = Field(
        default=IdentityConfig(),
        description="Which subject and names this vendor's devices may get.",
    )


class InventoryConfig(_Table):
    """The operator's list of devices."""

    csv_path: PublicPath = Field(
        description="CSV file with the header domain,identity,subject,san,enabled: vendor name, "
        "identity in its certificate, subject to certify, names to certify (separated by blanks), "
        "true or false.",
    )


class _Upstream(_Table):
    """Settings of every way to a CA."""

    kur: Literal["reprotect", "nested", "forward"] = Field(
        default="reprotect",
        description='How a key update goes up: "reprotect" signed by the RA (CA in RA mode; the '
        'CA relies on the gateway\'s check of the old key); "nested" untouched inside an '
        'RA-signed message; "forward" untouched.',
    )
    certconf: Literal["forward", "local"] = Field(
        default="forward",
        description='"forward" lets the CA answer certConf; "local" has the gateway answer it, '
        "for a CA that ignores confirmations (EJBCA).",
    )
    recipient: DN | None = Field(
        default=None,
        description="Recipient in messages to the CA, in the form of RFC 4514; by default the "
        "issuer of the RA certificate. EJBCA selects its CA by it.",
    )
    issuing_ca_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="CA certificates, PEM, one of which an issued certificate must chain through; "
        "by default the operator's issuing CAs and roots. Anything else the CA answers is refused.",
    )
    expected_subject: Literal["requested", "any"] = Field(
        default="requested",
        description='"requested" refuses a certificate with another subject than asked for; "any" '
        "is for test servers that always return the same one.",
    )
    orig_message: bool = Field(
        default=False,
        description="Whether the device's own message goes along as origPKIMessage, for a CA that "
        "wants to see its protection and proof of possession.",
    )


class BundledUpstream(_Upstream):
    """The CA that comes with the gateway, in the same process; needs `[ca]`."""

    kind: Literal["bundled"] = Field(description='"bundled": the CA of `[ca]`, in this process.')
    replays_repeats: bool = Field(
        default=True,
        description="Whether the CA answers an identical repeat with the same answer; the bundled "
        "one does, so after a crash the gateway may ask it again.",
    )


class CMPHTTPUpstream(_Upstream):
    """A CA that speaks CMP over HTTP: EJBCA, another bundled CA, any of RFC 9483."""

    kind: Literal["cmp_http"] = Field(description='"cmp_http": a CA that speaks CMP over HTTP.')
    url: Annotated[str, AfterValidator(_cmp_url)] = Field(
        description="Where to post, http or https, like "
        "http://ca.example.net:8080/ejbca/publicweb/cmp/ra.",
    )
    trust_anchors_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Roots, PEM, that the signer of the CA's answers must chain to; by default "
        "the operator's.",
    )
    ca_certificate_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Certificates, PEM, that may sign the CA's answers as they are, for a CA that "
        "signs CMP with its certificate-signing key (EJBCA).",
    )
    replays_repeats: bool = Field(
        default=False,
        description="Whether the CA answers an identical repeat with the same answer. true for a "
        "CA that does not (EJBCA) may issue twice; with false, a request the CA may have seen is "
        "not sent again.",
    )
    connect_timeout_seconds: Seconds = Field(
        default=3.0,
        le=60,
        description="Time to connect, in seconds. The default spans one retransmitted SYN (1 s) "
        "and its answer.",
    )
    deadline_seconds: Seconds = Field(
        default=15.0,
        le=300,
        description="Time for a whole exchange with the CA, in seconds; then the device gets "
        "systemUnavail. The default lets a CA with an HSM and a queue finish, and ends before "
        "clients usually give up (30 s).",
    )
    max_response_bytes: int = Field(
        default=262_144,
        ge=4096,
        le=16_777_216,
        description="Largest answer taken from the CA, in bytes. The default is four times the "
        "largest request: the answer carries chains and caPubs besides the certificate.",
    )
    max_connections: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most connections to this CA. The default serves 640 exchanges a second at "
        "100 ms each, more than most CAs issue.",
    )


UpstreamConfig = BundledUpstream | CMPHTTPUpstream


class CAClientConfig(_Table):
    """Client mode: devices that speak to the CA themselves, each a registered end entity."""

    paths: tuple[Annotated[str, AfterValidator(_endpoint_path)], ...] = Field(
        default=("/client",),
        min_length=1,
        description="URL paths of `ra-gateway ca serve` that are client mode's; below them the "
        "operation labels of RFC 9483 are served too.",
    )
    vendors: tuple[str, ...] = Field(
        min_length=1,
        description="Names of the `[vendors.<name>]` whose devices may ask for a first "
        "certificate; of those tables anchors, intermediates, algorithms and quirks count here.",
    )
    identity_from: Literal["serial_number", "cn"] = Field(
        default="serial_number",
        description="Subject attribute of the vendor certificate that names the end entity.",
    )
    implicit_confirm: bool = Field(
        default=False,
        description="Whether a device that asks for it may do without certConf; TS 33.310 always "
        "has certConf.",
    )
    strictness: Literal["lenient", "3gpp", "strict"] = Field(
        default="3gpp",
        description='"lenient" accepts what can be processed safely, "3gpp" follows TS 33.310, '
        '"strict" follows RFC 9483 to the letter. No setting weakens authentication.',
    )


class CAStatusConfig(_Table):
    """The status listener: CRLs, OCSP and CA certificates, over HTTP, for everybody."""

    listen_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. The default is reachable from this machine only.",
    )
    listen_port: int = Field(
        default=8082,
        ge=0,
        le=65535,
        description="TCP port; 0 takes a free one. The default is the one beside the CA's.",
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Most open connections; further ones are closed at once. The default is that "
        "of the other listeners.",
    )
    crl_hours: int = Field(
        default=24,
        ge=1,
        le=8760,
        description="From one full CRL to the next, in hours. The default is the usual one of CAs.",
    )
    overlap_hours: int = Field(
        default=24,
        ge=1,
        le=8760,
        description="How long a full CRL stays valid after its successor is due, in hours: so long "
        "may the CA be away before verifiers miss it. The default is a day to repair it.",
    )
    delta_minutes: int = Field(
        default=0,
        ge=0,
        le=10_080,
        description="From one delta CRL to the next, in minutes; a revocation makes one at once. 0 "
        "makes none, and each revocation a full CRL; the default is right up to some 10,000 revoked.",
    )
    check_seconds: Seconds = Field(
        default=5.0,
        ge=0.1,
        le=3600,
        description="From one look for revocations to the next, in seconds, and so the least time "
        "between two CRLs. The default is soon enough for people, and a hundredth of what a CRL of "
        "100,000 entries costs.",
    )
    ocsp: bool = Field(default=True, description="Whether OCSP is answered.")
    ocsp_validity_minutes: int = Field(
        default=60,
        ge=1,
        le=10_080,
        description="How long clients and caches may keep an OCSP answer, in minutes. The default is "
        "how long a revocation may go unseen by them.",
    )


class CAProfileConfig(_Table):
    """A certificate profile of your own: a built-in one, and what is different.

    Usages and attributes go by name (digitalSignature, serverAuth, CN) or dotted number. What is left out is as in
    `base`. `{issuer}` in a URL stands for the issuing CA's key identifier.
    """

    base: Name = Field(
        description="The built-in profile to start from; `ra-gateway ca profiles` lists them."
    )
    validity_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        description="Longest validity, in days; the default is that of the base.",
    )
    key_usage: tuple[str, ...] | None = Field(
        default=None, description="Key usages every certificate has."
    )
    extended_key_usage: tuple[str, ...] | None = Field(
        default=None, description="Extended key usages given when none is asked for."
    )
    allowed_extended_key_usage: tuple[str, ...] | None = Field(
        default=None, description="Extended key usages that may be asked for."
    )
    key_kinds: tuple[str, ...] | None = Field(
        default=None, description="Kinds of key that are certified."
    )
    required_subject: tuple[str, ...] | None = Field(
        default=None, description="Attributes the subject must have."
    )
    allowed_subject: tuple[str, ...] | None = Field(
        default=None, description="Attributes the subject may have."
    )
    san: tuple[str, ...] | None = Field(
        default=None, description='Kinds of SubjectAltName, like ["dns", "ip"].'
    )
    san_required: bool | None = Field(
        default=None, description="Whether there must be a SubjectAltName."
    )
    san_max: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Most names in the SubjectAltName; the default is that of the base.",
    )
    crl_urls: tuple[str, ...] | None = Field(
        default=None, description="URLs of the CRL, in place of `ca.crl_url`."
    )
    delta_crl_url: str | None = Field(
        default=None, description='URL of the delta CRL; "" leaves it out.'
    )
    ocsp_url: str | None = Field(
        default=None, description='URL of the OCSP responder; "" leaves it out.'
    )
    ca_issuers_url: str | None = Field(
        default=None, description='URL of the issuing CA\'s certificate; "" leaves it out.'
    )
    certificate_policies: tuple[str, ...] | None = Field(
        default=None, description="Certificate policies, dotted numbers."
    )


class CAConfig(_Table):
    """The bundled CA; needed by an upstream of kind bundled and by `ra-gateway ca serve`."""

    directory_path: Annotated[Path, AfterValidator(_ca_directory)] = Field(
        description="Directory with root.pem and certificates and keys of issuing CA, CMP signer "
        "and OCSP signer, as `ra-gateway ca create` makes them; the keys of mode 0600. The root's "
        "key is not needed here.",
    )
    ledger_path: Annotated[Path, AfterValidator(_written_file)] | None = Field(
        default=None,
        description="SQLite file of everything issued; made at the first start. Its directory "
        "must exist. For one machine; several need PostgreSQL and `ledger_url_path`.",
    )
    ledger_url_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="File that holds the URL of a PostgreSQL database, like "
        "postgresql://ca:password@db.example.net/ledger; mode 0600. In place of `ledger_path`.",
    )
    ledger_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        default=None,
        repr=False,
        description="The URL itself; only without a password. In place of `ledger_url_path`.",
    )
    key_password_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="File with the password of the keys; mode 0600. Without it they must be "
        "unencrypted, or in an HSM.",
    )
    profile: Name = Field(
        default="ne_ipsec",
        description="Certificate profile of what is issued unless a role or an end entity says "
        "otherwise: a built-in one of TS 33.310 6.1 (`ra-gateway ca profiles` lists them) or one "
        "of `[ca.profiles]`.",
    )
    validity_days: int = Field(
        default=365,
        ge=1,
        le=3650,
        description="Validity of issued certificates, in days, never beyond the issuing CA's own. "
        "The default has each base station renew once a year.",
    )
    crl_url: Annotated[str, AfterValidator(_crl_url)] | None = Field(
        default=None,
        description="URL of the CRL, http, put into every certificate as its distribution point; "
        "without it the extension is left out.",
    )
    delta_crl_url: Annotated[str, AfterValidator(_crl_url)] | None = Field(
        default=None,
        description="URL of the delta CRL, http, put into full CRLs and certificates (freshestCRL).",
    )
    ocsp_url: Annotated[str, AfterValidator(_crl_url)] | None = Field(
        default=None, description="URL of the OCSP responder, http, put into every certificate."
    )
    ca_issuers_url: Annotated[str, AfterValidator(_crl_url)] | None = Field(
        default=None,
        description="URL of the issuing CA's certificate, http, put into every certificate.",
    )
    confirm_wait_seconds: WholeSeconds = Field(
        default=300,
        ge=1,
        le=86_400,
        description="How long the CA awaits certConf, in seconds: it says so in its answers, the "
        "gateway passes that on to devices, and a certificate not confirmed by then is revoked. "
        "The default is that of the endpoints.",
    )
    reenroll: Literal["allow", "deny", "window"] = Field(
        default="allow",
        description="Whether a device that holds a confirmed, valid certificate may ask for a "
        'first one again (ir), as after a factory reset: "window" lets it for '
        "`reenroll_window_hours` after it was first seen or registered, or as long as "
        "`ra-gateway ca entity open` says.",
    )
    reenroll_window_hours: int = Field(
        default=24,
        ge=1,
        le=8760,
        description='For `reenroll = "window"`, in hours. The default is a day of commissioning.',
    )
    unique_key: bool = Field(
        default=True,
        description="Whether a key that a living certificate of another end entity has is refused "
        "(duplicateCertReq).",
    )
    revoke_superseded: bool = Field(
        default=False,
        description="Whether the old certificate is revoked (superseded) as soon as its renewal "
        "is confirmed; otherwise it stays valid until it expires.",
    )
    profiles: Named[CAProfileConfig] = Field(
        default={}, description="Certificate profiles of your own."
    )
    client: CAClientConfig | None = Field(
        default=None, description="Client mode; without it only RAs are heard."
    )
    status: CAStatusConfig | None = Field(
        default=None,
        description="The status listener, and the making of CRLs; without it there are neither.",
    )
    server: CAServerConfig = Field(
        default=CAServerConfig(),
        description="The HTTP listener of `ra-gateway ca serve`; unused in process.",
    )

    @property
    def database(self) -> Path | str:
        """Return where the ledger is: a file, or the URL of a database.

        Raises:
            OSError: The file with the URL cannot be read.
        """
        if self.ledger_url_path is not None:
            return self.ledger_url_path.read_text().strip()
        if self.ledger_url is not None:
            return self.ledger_url
        assert self.ledger_path is not None  # one of the three: _check_ledger
        return self.ledger_path


class GenmConfig(_Table):
    """Who answers what devices ask by genm, where `body_types` has it.

    "forward" asks the CA, "local" answers here, "deny" refuses.
    """

    ca_certs: Literal["forward", "local", "deny"] = Field(
        default="forward",
        description='caCerts; "local" tells the CA certificates of `operator.intermediates_paths`.',
    )
    root_ca_cert: Literal["forward", "local", "deny"] = Field(
        default="forward",
        description='rootCaCert, after an update of the root; "local" says that there is none.',
    )
    cert_req_template: Literal["forward", "local", "deny"] = Field(
        default="forward",
        description='certReqTemplate; "local" says that nothing is prescribed.',
    )
    crl_status_list: Literal["forward", "deny"] = Field(
        default="forward", description="crlStatusList, for a newer CRL."
    )
    others: Literal["forward", "deny"] = Field(
        default="forward", description="Every other question; most CAs refuse it."
    )


class MACConfig(_Table):
    """Shared secrets of devices that have no certificate yet: ir, cr and p10cr under a MAC (PBM, PBMAC1).

    Not with strictness "3gpp". Lock-out is counted by each process for itself.
    """

    secrets_path: SecretPath = Field(
        description="CSV file with the header reference,secret,subject,san,single_use,expires: "
        "senderKID, at least 16 characters, the subject and the names (separated by blanks) it may "
        "ask for, true or false, and a time like 2027-01-31T00:00:00Z or nothing; mode 0600. Read "
        "at the start.",
    )
    used_path: Annotated[Path, AfterValidator(_written_file)] | None = Field(
        default=None,
        description="File that records which secrets for single use were used, required for such; "
        "made when the first one is. Not with the redis store: no other process reads it.",
    )
    min_iterations: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Least iterations of the key derivation; fewer are refused with badAlg. "
        "openssl uses 500 unless told otherwise.",
    )
    max_iterations: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="Most iterations; more are refused before anything is computed. A stranger can "
        "make the gateway compute so many: those of the default take some 10 ms, during which it "
        "does nothing else.",
    )
    allow_weak_hmac: bool = Field(
        default=False,
        description="Whether HMAC-SHA1 is taken; openssl up to 3.0 uses it unless told otherwise "
        "(-mac hmacWithSHA256).",
    )
    lockout_failures: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Wrong MACs under one reference, within `lockout_seconds`, that lock it for as "
        "long. By default five: a device that knows its secret needs one.",
    )
    lockout_seconds: WholeSeconds = Field(
        default=900,
        le=86_400,
        description="Time for `lockout_failures`, and of the lock, in seconds; by default what "
        "leaves a guesser some 500 attempts a day.",
    )


class EndpointConfig(_Table):
    """URLs, who may use them for what, and where their requests go."""

    paths: tuple[Annotated[str, AfterValidator(_endpoint_path)], ...] = Field(
        default=(),
        description="Exact URL paths; a slash at the end makes no difference. Below "
        f"{WELL_KNOWN_PATH} the operation labels of RFC 9483 (initialization, keyupdate, ...) "
        "are served too.",
    )
    profiles: tuple[Name, ...] = Field(
        default=(), description=f"Profile names; each is served at {WELL_KNOWN_PATH}/p/<name>."
    )
    vendors: tuple[str, ...] = Field(
        default=(), description="Names of the `[vendors.<name>]` whose devices may send ir here."
    )
    operator: bool = Field(
        default=True,
        description="Whether devices with an operator certificate may send kur here, and what "
        "else `body_types` has but ir.",
    )
    body_types: tuple[BodyName, ...] = Field(
        default=("ir", "cr", "kur"),
        min_length=1,
        description="Requests that may open a transaction here. TS 33.310 has neither p10cr (a "
        "PKCS#10), nor rr (a device has its own certificate revoked), nor genm (it asks).",
    )
    genm: GenmConfig = Field(default=GenmConfig(), description="Who answers genm.")
    mac: MACConfig | None = Field(
        default=None,
        description="Shared secrets; without this table, protection by MAC is refused.",
    )
    upstream: str = Field(description="Name of the `[upstreams.<name>]` that requests go to.")
    implicit_confirm: Literal["deny", "relay"] = Field(
        default="deny",
        description='"deny" always runs certConf and pkiConf, as TS 33.310 has it; "relay" grants '
        "implicitConfirm when the device asks for it and the CA grants it.",
    )
    strictness: Literal["lenient", "3gpp", "strict"] = Field(
        default="3gpp",
        description='"lenient" accepts what can be processed safely, "3gpp" follows TS 33.310, '
        '"strict" follows RFC 9483 to the letter. No setting weakens authentication.',
    )
    message_time_window_seconds: WholeSeconds = Field(
        default=300,
        ge=1,
        le=86_400,
        description="How far messageTime may be from the gateway's clock, either way, in seconds; "
        "beyond it: badTime. Less than half of `store.transaction_lifetime_seconds`. The default is "
        "the usual one of CMP servers (XiPKI) and of Kerberos.",
    )
    require_message_time: bool = Field(
        default=False,
        description="Whether a message without messageTime is refused; real base stations often "
        "send none.",
    )
    ca_pubs: Literal["drop", "relay", "root"] = Field(
        default="drop",
        description='caPubs of ip: "drop" leaves it out (the operator root is in extraCerts), '
        '"relay" passes the CA\'s on, "root" puts the operator roots in.',
    )
    extra_certs_max_count: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Most certificates in extraCerts of a request; more are refused before a path "
        "is sought. The default is five times a vendor's usual chain of three.",
    )
    confirm_wait_seconds: WholeSeconds = Field(
        default=300,
        ge=1,
        le=86_400,
        description="confirmWaitTime told to the device where the CA does not set one, in "
        "seconds: by then it should send certConf. The default is that of other CMP servers "
        "(XiPKI).",
    )

    @property
    def url_paths(self) -> tuple[str, ...]:
        """Return every URL path served, profiles included, without a slash at the end."""
        return tuple(_url_paths(self.paths, self.profiles))


class GatewayConfig(_Table):
    """Everything one gateway process is told."""

    server: ServerConfig = Field(default=ServerConfig(), description="The HTTP listener.")
    log: LogConfig = Field(default=LogConfig(), description="Logging.")
    store: StoreConfig = Field(default=StoreConfig(), description="The transaction store.")
    ra: RAConfig = Field(description="The gateway's own credential.")
    operator: OperatorConfig = Field(description="The operator's trust domain.")
    vendors: Named[VendorConfig] = Field(
        default={}, description="The manufacturers' trust domains."
    )
    inventory: InventoryConfig | None = Field(
        default=None, description="The operator's list of devices."
    )
    upstreams: Named[Annotated[UpstreamConfig, Field(discriminator="kind")]] = Field(
        min_length=1, description="The ways to CAs."
    )
    ca: CAConfig | None = Field(default=None, description="The bundled CA.")
    endpoints: Named[EndpointConfig] = Field(min_length=1, description="The URLs served.")

    @property
    def has_bundled_upstream(self) -> bool:
        """Return whether an upstream is the bundled CA in this process (then `ca` is not None)."""
        return any(upstream.kind == "bundled" for upstream in self.upstreams.values())


class CAServiceConfig(_Table):
    """What `ra-gateway ca serve` is told: `[log]`, `[ca]`, `[vendors]`, alone or in a gateway's file."""

    log: LogConfig = Field(default=LogConfig(), description="Logging.")
    vendors: Named[VendorConfig] = Field(
        default={}, description="The manufacturers' trust domains, for client mode."
    )
    ca: CAConfig = Field(description="The bundled CA.")


# --- What several values must be together ---------------------------------------------------------

_Raw = Mapping[str, Any]


def _table(raw: object, *keys: str) -> _Raw:
    """Return a table of the raw file, empty if it is absent or no table."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else {}


def _rows(raw: _Raw, key: str) -> Iterator[tuple[str, _Raw]]:
    for name in _table(raw, key):
        yield name, _table(raw, key, name)


def _strings(raw: object) -> list[str]:
    return [item for item in raw if isinstance(item, str)] if isinstance(raw, list | tuple) else []


def _value(table: _Raw, model: type[BaseModel], key: str) -> Any:
    """Return a raw value, or the model's default where the file is silent."""
    return table.get(key, model.model_fields[key].default)


def _exceeds(left: object, right: object) -> bool:
    """Return whether two raw values are numbers and the first is larger."""
    if isinstance(left, bool) or isinstance(right, bool):
        return False
    return isinstance(left, int | float) and isinstance(right, int | float) and left > right


def _url_paths(paths: object, profiles: object) -> Iterator[str]:
    for path in _strings(paths):
        yield path.rstrip("/") or "/"
    for profile in _strings(profiles):
        yield f"{WELL_KNOWN_PATH}/p/{profile}"


def _check_store(raw: _Raw) -> Iterator[Problem]:
    store = _table(raw, "store")
    given = [key for key in ("redis_url", "redis_url_path") if key in store]
    if store.get("kind") == "redis" and not given:
        yield Problem(
            "store.redis_url_path",
            "is required when kind is redis",
            "Name a file of mode 0600 that holds the URL, or set redis_url without a password.",
        )
    if len(given) == 2:
        yield Problem(
            "store.redis_url", "is given together with redis_url_path", "Remove one of the two."
        )


def _check_reserved_names(raw: _Raw) -> Iterator[Problem]:
    if OPERATOR_DOMAIN in _table(raw, "vendors"):
        yield Problem(
            f"vendors.{OPERATOR_DOMAIN}",
            "has the name of the operator's own trust domain",
            "Choose another name.",
        )


def _check_identities(raw: _Raw) -> Iterator[Problem]:
    for name, vendor in _rows(raw, "vendors"):
        identity = _table(vendor, "identity")
        path = f"vendors.{name}.identity"
        subject = _value(identity, IdentityConfig, "subject")
        inventory = _value(identity, IdentityConfig, "inventory")
        if (
            subject in ("derive", "replace")
            and inventory != "required"
            and "subject_template" not in identity
        ):
            yield Problem(
                f"{path}.subject_template",
                f"is required when subject is {subject}",
                'Set it, like "CN={cn}.ran.example.net,O=Example", or set inventory to "required".',
            )
        if subject in ("keep", "derive") and not identity.get("allowed_subjects"):
            yield Problem(
                f"{path}.allowed_subjects",
                f"is empty: no device could have what it asks for, and subject is {subject}",
                'List patterns, like "CN=*.example.net,O=Example", or set subject to "replace".',
            )
        if subject == "keep" and "no_subject" in _strings(vendor.get("quirks")):
            yield Problem(
                f"{path}.subject",
                "is keep, which refuses a template without subject, but quirks has no_subject",
                'Set it to "derive" with a subject_template, or take no_subject out.',
            )
        if inventory in ("optional", "required") and "inventory" not in raw:
            yield Problem(
                f"{path}.inventory",
                f"is {inventory}, but there is no inventory",
                "Add [inventory] with csv_path, or set this to none.",
            )


def _check_references(raw: _Raw) -> Iterator[Problem]:
    vendors, upstreams = _table(raw, "vendors"), _table(raw, "upstreams")
    for name, endpoint in _rows(raw, "endpoints"):
        listed = endpoint.get("vendors")
        for index, vendor in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(vendor, str) and vendor not in vendors:
                yield _unknown_name(
                    f"endpoints.{name}.vendors[{index}]", "vendor", "vendors", vendor, vendors
                )
        upstream = endpoint.get("upstream")
        if isinstance(upstream, str) and upstream not in upstreams:
            yield _unknown_name(
                f"endpoints.{name}.upstream", "upstream", "upstreams", upstream, upstreams
            )


def _unknown_name(path: str, noun: str, table: str, name: str, known: _Raw) -> Problem:
    listed = f"known are: {', '.join(known)}" if known else "none is configured"
    return Problem(
        path,
        f'names the {noun} "{name}", which does not exist',
        f"Add [{table}.{name}], or correct the name ({listed}).{_did_you_mean(name, known)}",
    )


def _check_endpoints(raw: _Raw) -> Iterator[Problem]:
    for name, endpoint in _rows(raw, "endpoints"):
        path = f"endpoints.{name}"
        operator = _value(endpoint, EndpointConfig, "operator")
        if not endpoint.get("paths") and not endpoint.get("profiles"):
            yield Problem(
                path, "has no URL", f'Set paths, like ["{WELL_KNOWN_PATH}"], or profiles.'
            )
        if operator is False and not endpoint.get("vendors") and "mac" not in endpoint:
            yield Problem(path, "admits nobody", "List vendors, or set operator to true.")
        for body_type in ("kur", "rr"):
            if operator is False and body_type in _strings(endpoint.get("body_types")):
                yield Problem(
                    f"{path}.body_types",
                    f"has {body_type}, which needs an operator certificate, but operator is false",
                    f"Take {body_type} out, or set operator to true.",
                )
        if endpoint.get("genm") and "genm" not in _strings(endpoint.get("body_types")):
            yield Problem(
                f"{path}.genm",
                "says who answers genm, but body_types does not have it",
                "Add genm to body_types, or take the table out.",
            )
        if (
            not endpoint.get("vendors")
            and "mac" not in endpoint
            and _strings(endpoint.get("body_types")) == ["ir"]
        ):
            yield Problem(
                f"{path}.vendors",
                "is empty, but ir, which needs a vendor certificate, is all that is accepted",
                "List vendors, or add to body_types.",
            )


def _check_mac(raw: _Raw) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, endpoint in _rows(raw, "endpoints"):
        if "mac" not in endpoint:
            continue
        path, mac = f"endpoints.{name}.mac", _table(endpoint, "mac")
        if _value(endpoint, EndpointConfig, "strictness") == "3gpp":
            yield Problem(
                path,
                'is given, but strictness is "3gpp", and TS 33.310 has no shared secrets',
                'Take the table out, or set strictness to "strict" or "lenient".',
            )
        types = _strings(_value(endpoint, EndpointConfig, "body_types"))
        if not {"ir", "cr", "p10cr"} & set(types):
            yield Problem(
                path,
                "is given, but body_types has none of ir, cr and p10cr",
                "Add one to body_types, or take the table out.",
            )
        if "used_path" in mac and _table(raw, "store").get("kind") == "redis":
            yield Problem(
                f"{path}.used_path",
                "is given, but with the redis store other processes could use a secret again",
                "Use the memory store, or only secrets that are not for single use.",
            )
        if _exceeds(
            _value(mac, MACConfig, "min_iterations"), _value(mac, MACConfig, "max_iterations")
        ):
            yield Problem(
                f"{path}.min_iterations", "is above max_iterations", "Lower it, or raise the other."
            )
        for key in ("secrets_path", "used_path"):
            for file in _strings([mac.get(key)]):
                place = f"{path}.{key}"
                if (first := owners.setdefault(file, place)) != place:
                    yield Problem(
                        place,
                        f"is the file of {first}",
                        "Give each endpoint files of its own: each counts for itself.",
                    )


def _check_duplicate_urls(raw: _Raw) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, endpoint in _rows(raw, "endpoints"):
        for key in ("paths", "profiles"):
            values = endpoint.get(key)
            for index, value in enumerate(values if isinstance(values, list) else ()):
                place = f"endpoints.{name}.{key}[{index}]"
                for url_path in _url_paths(*(([value], ()) if key == "paths" else ((), [value]))):
                    first = owners.setdefault(url_path, place)
                    if first != place:
                        yield Problem(
                            place,
                            f"stands for {url_path}, which {first} has already",
                            "Remove one of the two.",
                        )


def _check_times(raw: _Raw) -> Iterator[Problem]:
    lifetime = _value(_table(raw, "store"), StoreConfig, "transaction_lifetime_seconds")
    for name, endpoint in _rows(raw, "endpoints"):
        window = _value(endpoint, EndpointConfig, "message_time_window_seconds")
        # From a clock that is ahead by one window to one that is behind by one.
        if isinstance(window, int) and not _exceeds(lifetime, 2 * window):
            yield Problem(
                f"endpoints.{name}.message_time_window_seconds",
                "is not less than half of store.transaction_lifetime_seconds: a captured request "
                "could be sent again once it is forgotten",
                "Shorten it, or lengthen the lifetime.",
            )
        if _exceeds(_value(endpoint, EndpointConfig, "confirm_wait_seconds"), lifetime):
            yield Problem(
                f"endpoints.{name}.confirm_wait_seconds",
                "is longer than store.transaction_lifetime_seconds: certConf would come too late",
                "Shorten it, or lengthen the lifetime.",
            )
    ca = _table(raw, "ca")
    if ca and _exceeds(_value(ca, CAConfig, "confirm_wait_seconds"), lifetime):
        yield Problem(
            "ca.confirm_wait_seconds",
            "is longer than store.transaction_lifetime_seconds: certConf would come too late",
            "Shorten it, or lengthen the lifetime.",
        )
    drain = _value(_table(raw, "server"), ServerConfig, "drain_seconds")
    for name, upstream in _rows(raw, "upstreams"):
        deadline = _value(upstream, CMPHTTPUpstream, "deadline_seconds")
        if upstream.get("kind") != "cmp_http":
            continue
        if _exceeds(deadline, drain):
            yield Problem(
                f"upstreams.{name}.deadline_seconds",
                "is longer than server.drain_seconds: a stop would cut requests off",
                "Shorten it, or lengthen drain_seconds.",
            )
        if _exceeds(_value(upstream, CMPHTTPUpstream, "connect_timeout_seconds"), deadline):
            yield Problem(
                f"upstreams.{name}.connect_timeout_seconds",
                "is longer than deadline_seconds, which ends the whole exchange",
                "Shorten it.",
            )


def _check_bundled_ca(raw: _Raw) -> Iterator[Problem]:
    if "ca" not in raw:
        for name, upstream in _rows(raw, "upstreams"):
            if upstream.get("kind") == "bundled":
                yield Problem(
                    f"upstreams.{name}.kind",
                    "is bundled, but there is no [ca]",
                    "Add [ca] (`ra-gateway init` writes one), or use a CA over HTTP (cmp_http).",
                )


def _check_ledger(raw: _Raw) -> Iterator[Problem]:
    ca = _table(raw, "ca")
    given = [key for key in ("ledger_path", "ledger_url_path", "ledger_url") if key in ca]
    if ca and not given:
        yield Problem(
            "ca.ledger_path",
            "is required, unless ledger_url_path or ledger_url is given",
            "Name a SQLite file, or in ledger_url_path a file with the URL of a PostgreSQL database.",
        )
    if len(given) > 1:
        yield Problem(f"ca.{given[1]}", f"is given together with {given[0]}", "Leave one of them.")


def _check_ca_client(raw: _Raw) -> Iterator[Problem]:
    vendors = _table(raw, "vendors")
    for index, vendor in enumerate(_strings(_table(raw, "ca", "client").get("vendors"))):
        if vendor not in vendors:
            yield _unknown_name(f"ca.client.vendors[{index}]", "vendor", "vendors", vendor, vendors)


def _check_revocation(raw: _Raw) -> Iterator[Problem]:
    tables = [("operator", _table(raw, "operator"))]
    tables += [(f"vendors.{name}", vendor) for name, vendor in _rows(raw, "vendors")]
    for where, table in tables:
        revocation = _table(table, "revocation")
        from_certificates = revocation.get("from_certificates") is True
        if from_certificates and not revocation.get("allowed_hosts"):
            yield Problem(
                f"{where}.revocation.allowed_hosts",
                "is empty, so that from_certificates may fetch nothing",
                "Name the hosts of the CRLs, or leave from_certificates out.",
            )
        sources = revocation.get("crl_paths") or revocation.get("crl_urls") or from_certificates
        if revocation.get("mode", "off") != "off" and not sources:
            yield Problem(
                f"{where}.revocation.mode",
                "asks for CRLs, and none are named",
                'Name them in crl_paths or crl_urls, or set it to "off".',
            )


_RULES: Final[tuple[Callable[[_Raw], Iterator[Problem]], ...]] = (
    _check_store,
    _check_reserved_names,
    _check_identities,
    _check_references,
    _check_endpoints,
    _check_mac,
    _check_duplicate_urls,
    _check_times,
    _check_bundled_ca,
    _check_ledger,
    _check_ca_client,
    _check_revocation,
)

# --- Reading --------------------------------------------------------------------------------------


def load(path: Path, *, check_files: bool = True) -> GatewayConfig:
    """Read a gateway's configuration file.

    Args:
        path: The TOML file; relative paths in it start at its directory.
        check_files: False leaves out whether the files it names exist and who may read them.

    Raises:
        ConfigError: With every problem found.
    """
    return parse(_read(path), directory=path.parent, check_files=check_files, name=path.name)


def parse(
    text: str, *, directory: Path, check_files: bool = True, name: str = "configuration"
) -> GatewayConfig:
    """Validate the text of a configuration file; as `load`, with `directory` for relative paths.

    Raises:
        ConfigError: With every problem found.
    """
    return _validate(GatewayConfig, _tables(text, name), _RULES, directory, check_files)


def load_ca(path: Path, *, check_files: bool = True) -> CAServiceConfig:
    """Read what `ra-gateway ca serve` needs; the other tables of a gateway are not looked at.

    Raises:
        ConfigError: With every problem found.
    """
    raw = {
        key: value
        for key, value in _tables(_read(path), path.name).items()
        if key in CAServiceConfig.model_fields or key not in GatewayConfig.model_fields
    }
    return _validate(
        CAServiceConfig,
        raw,
        (_check_reserved_names, _check_ledger, _check_ca_client),
        path.parent,
        check_files,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        what, todo = (
            f"cannot be read: {error.strerror}",
            "Give the path of a file; `ra-gateway init` writes one.",
        )
    except UnicodeDecodeError as error:
        what, todo = f"is not UTF-8 text (byte {error.start})", "Save it as UTF-8."
    raise ConfigError([Problem(str(path), what, todo)])


def _tables(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    reason, line, column = found.groups() if found else (message, str(text.count("\n") + 1), "1")
    raise ConfigError(
        [
            Problem(
                f"{name}:{line}",
                f"is not TOML: {reason} (column {column})",
                "Correct the line; text needs quotes, and a table or key may be given only once.",
            )
        ]
    )


Model = TypeVar("Model", bound=BaseModel)


def _validate(
    model: type[Model],
    raw: dict[str, Any],
    rules: tuple[Callable[[_Raw], Iterator[Problem]], ...],
    directory: Path,
    check_files: bool,
) -> Model:
    problems = [problem for rule in rules for problem in rule(raw)]
    context = {"directory": directory.absolute(), "check_files": check_files}
    config: Model | None = None
    try:
        # As JSON: pydantic's strict mode then takes texts for paths and lists for tuples, no more.
        config = model.model_validate_json(json.dumps(raw, default=str), context=context)
    except ValidationError as error:
        details = [detail for detail in error.errors() if not _is_echo(detail)]
        problems = [_problem(model, detail) for detail in details] + problems
    if config is None or problems:
        # Outside of the except block: a chained error would show values of the file in a traceback.
        raise ConfigError(problems)
    return config


# --- Telling --------------------------------------------------------------------------------------

_TYPE_NAMES: Final = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number with an end",
    "string_type": "a text in quotes",
    "path_type": "a path in quotes",
    "tuple_type": "a list in square brackets",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "mapping_type": "a table",
}
_JSON_NAMES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "this kind of number",
    str: "a text",
    list: "a list",
    dict: "a table",
}
_RANGES: Final = {
    "greater_than": ("gt", "must be more than", "Raise it"),
    "greater_than_equal": ("ge", "must be at least", "Raise it"),
    "less_than_equal": ("le", "must be at most", "Lower it"),
}
_SECRET_WORDS: Final = re.compile(
    r"password|passwd|secret|token|private|pin\b|(^|_)key($|_pem$)", re.IGNORECASE
)


def _problem(root: type[BaseModel], detail: ErrorDetails) -> Problem:
    """Return the problem behind one of pydantic's errors, without the offending value."""
    loc, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    path = _dotted(loc)
    field = _field_at(root, loc)
    if kind == "setting":
        return Problem(path, context["what"], context["todo"])
    if kind == "extra_forbidden":
        return _unknown_key(root, loc)
    if kind == "missing":
        return Problem(path, "is required", _advice("Add it", field))
    if kind == "union_tag_not_found":
        return Problem(f"{path}.kind", "is required", 'Set it to "bundled" or "cmp_http".')
    if kind == "union_tag_invalid":
        tags = ("bundled", "cmp_http")
        return Problem(
            f"{path}.kind", "is not one of the values it may have", _choices(tags, context["tag"])
        )
    if kind == "literal_error":
        return Problem(
            path,
            "is not one of the values it may have",
            _choices(_literals(field), detail["input"]),
        )
    if kind in _RANGES:
        bound, text, advice = _RANGES[kind]
        return Problem(path, f"{text} {context[bound]:g}", _advice(advice, field))
    if kind in _TYPE_NAMES:
        wanted = _TYPE_NAMES[kind]
        found = _JSON_NAMES.get(type(detail["input"]), "anything else")
        return Problem(path, f"must be {wanted}, not {found}", _advice(f"Write {wanted}", field))
    if kind in ("too_short", "string_too_short"):
        return Problem(path, "must not be empty", _advice("Fill it", field))
    if kind == "string_pattern_mismatch":
        return Problem(
            path,
            "is not a possible name",
            "Use letters, digits, - and _, at most 64, the first a letter or a digit.",
        )
    return Problem(path, detail["msg"], _advice("Change it", field))


def _is_echo(detail: ErrorDetails) -> bool:
    """Return whether a list is only called too short because its entries were refused already."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _unknown_key(root: type[BaseModel], loc: tuple[int | str, ...]) -> Problem:
    model, key = _model_of(_type_at(root, loc[:-1])), str(loc[-1])
    known = tuple(model.model_fields) if model else ()
    by_file = next((name for name in (f"{key}_path", f"{key}_paths") if name in known), None)
    if by_file is not None:
        what, todo = (
            "is not a key; material is given by file",
            f"Write it to a file and name it in {by_file}.",
        )
    elif _SECRET_WORDS.search(key):
        what = "is not a key, and a secret must not stand in this file"
        todo = f"Remove it; secrets are read from files of mode 0600.{_did_you_mean(key, known)}"
    else:
        what = "is not a known key"
        hint = _did_you_mean(key, known) or f" Known here are: {', '.join(known)}."
        todo = f"Correct or remove it.{hint}"
    return Problem(_dotted(loc), what, todo)


def _did_you_mean(word: object, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def _choices(values: tuple[str, ...], given: object) -> str:
    return f"Use one of: {', '.join(values)}.{_did_you_mean(given, values)}"


def _advice(action: str, field: FieldInfo | None) -> str:
    """Return what to do, with the key's meaning and numeric default for whoever has no manual."""
    if field is None or not field.description:
        return f"{action}."
    number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
    default = f" (default: {field.default:g})" if number else ""
    return f"{action}{default}. {field.description}"


def _dotted(loc: tuple[int | str, ...]) -> str:
    """Return a location as `vendors.acme.anchors_paths[0]`, without pydantic's own marks in it."""
    text = ""
    for index, step in enumerate(loc):
        if step == "[key]" or (index == 2 and loc[0] == "upstreams"):
            continue  # the second is the tag of the discriminated union
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".") or "configuration"


def _type_at(root: type[BaseModel], loc: tuple[int | str, ...]) -> Any:
    """Return the declared type at a location, or None if nothing is declared there."""
    current: Any = root
    for step in loc:
        model = _model_of(current)
        arguments = [argument for argument in get_args(bare(current)) if argument is not type(None)]
        if model is not None:
            field = model.model_fields.get(str(step))
            current = field.annotation if field else None
        elif get_origin(bare(current)) in (Union, UnionType):
            tagged = (c for c in arguments if step in get_args(c.model_fields["kind"].annotation))
            current = next(tagged, None)
        elif arguments:
            current = arguments[0 if isinstance(step, int) else -1]
        else:
            return None
    return current


def bare(annotation: Any) -> Any:
    """Return a type without Annotated, and without None if that leaves one type."""
    while True:
        arguments = get_args(annotation)
        if get_origin(annotation) is Annotated:
            annotation = arguments[0]
        elif (
            get_origin(annotation) in (Union, UnionType)
            and type(None) in arguments
            and len(arguments) == 2
        ):
            annotation = next(argument for argument in arguments if argument is not type(None))
        else:
            return annotation


def _model_of(annotation: Any) -> type[BaseModel] | None:
    found = bare(annotation)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _field_at(root: type[BaseModel], loc: tuple[int | str, ...]) -> FieldInfo | None:
    """Return the field a location belongs to (a list's for its items)."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    model = _model_of(_type_at(root, loc[:-1])) if loc else None
    return model.model_fields.get(str(loc[-1])) if model else None


def _literals(field: FieldInfo | None) -> tuple[str, ...]:
    annotation = bare(field.annotation) if field else None
    if get_origin(annotation) is tuple:
        annotation = bare(get_args(annotation)[0])
    return tuple(str(value) for value in get_args(annotation))
