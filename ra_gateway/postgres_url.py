"""The URL of a PostgreSQL database taken apart: what is wrong with it is said without repeating any of it.

libpq and asyncpg put values of a URL that they cannot read into their errors, a password among them, and go without
TLS where a server, or whoever stands in between, says that it has none. Hence it is read here.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from ra_gateway.peers import is_local

TLSMode: TypeAlias = Literal["disable", "require", "verify-ca", "verify-full"]

DEFAULT_PORT: Final = 5432

_KNOWN: Final = frozenset(
    {
        "host",
        "port",
        "user",
        "password",
        "passfile",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "target_session_attrs",
    }
)
_DOWNGRADED: Final = frozenset({"allow", "prefer"})
_ENCODE: Final = (
    "Write it like postgresql://ca:password@db.example.net/ledger, and in user and password every / as %2F, "
    "# as %23, ? as %3F, @ as %40, : as %3A, % as %25"
)


class UnusableURL(ValueError):
    """A URL that is none, or asks for what is not done; the text repeats nothing of it.

    Args:
        todo: What to do.
    """

    def __init__(self, what: str, todo: str = _ENCODE) -> None:
        super().__init__(what)
        self.todo = todo


@dataclass(frozen=True, slots=True)
class PostgresURL:
    """Where a database is, and how it is spoken to.

    Args:
        hosts: Names, addresses, or directories of Unix sockets; empty for this machine's socket.
        ports: One for each of `hosts`.
        tls: None where the URL says nothing: then this machine is spoken to without TLS, and every other one
            with its certificate and name checked.
        root_path: PEM, the only roots that are trusted; None for those of the system.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    asked: TLSMode | None = None
    root_path: Path | None = None
    certificate_path: Path | None = None
    key_path: Path | None = None
    password_file: str | None = field(default=None, repr=False)
    session: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether all of it stays on this machine."""
        return all(map(is_local, self.hosts))

    @property
    def tls(self) -> TLSMode:
        """How TLS is spoken."""
        return self.asked or ("disable" if self.is_local else "verify-full")

    @property
    def weakness(self) -> str:
        """What somebody between here and the server could do; "" for nothing."""
        if self.is_local or self.tls == "verify-full":
            return ""
        if self.tls == "disable":
            return "reads and changes everything, the password included: there is no TLS"
        if self.tls == "require":
            return (
                "may pose as the server, and be given the password: its certificate is not checked"
            )
        return "may pose as the server with any certificate of the same CA: its name is not checked"

    def connection(self) -> dict[str, Any]:
        """Return what asyncpg is told of the server, the user and TLS.

        Raises:
            UnusableURL: As of `tls_context`.
        """
        return {
            "host": list(self.hosts) or None,
            "port": list(self.ports) or None,
            "user": self.user,
            "password": self.password,
            "passfile": self.password_file,
            "database": self.database,
            "target_session_attrs": self.session,
            "ssl": self.tls_context() or False,
        }

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how TLS is spoken, None without; what SSLKEYLOGFILE names gets no keys.

        Raises:
            UnusableURL: A file that the URL names cannot be used.
        """
        if self.tls == "disable":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = self.tls == "verify-full"
        if self.tls == "require":
            context.verify_mode = ssl.CERT_NONE
        elif self.root_path is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.root_path)
            except (OSError, ValueError):
                raise UnusableURL(
                    f"no CA certificates can be read from {self.root_path}",
                    "Name in sslrootcert a PEM file with the roots of the server's certificate",
                ) from None
        if self.certificate_path is not None:
            try:
                # Never without a password: OpenSSL would ask the terminal for one.
                context.load_cert_chain(self.certificate_path, self.key_path, b"")
            except (OSError, ValueError):
                raise UnusableURL(
                    f"certificate and key cannot be used: {self.certificate_path}",
                    "Name in sslcert and sslkey PEM files of a certificate and its key, unencrypted, of mode 0600",
                ) from None
        return context


def parse_postgres_url(text: str) -> PostgresURL:
    """Take a URL apart.

    Raises:
        UnusableURL: It is none, or has an attribute that is not known or given twice.
    """
    try:
        return _parse(text)
    except UnusableURL:
        raise
    except ValueError:
        # Outside: what the library said may hold the password, and would be shown as the context.
        pass
    raise UnusableURL("is not the URL of a PostgreSQL database")


def _parse(text: str) -> PostgresURL:
    if not text.startswith(("postgresql://", "postgres://")):
        raise UnusableURL("does not begin with postgresql://")
    if not text.isprintable() or any(char in text for char in ' "<>\\^`{|}'):
        raise UnusableURL("has blanks or other characters that do not belong into a URL")
    parts = urlsplit(text)
    if parts.fragment or text.endswith("#"):
        raise UnusableURL("has a #, which begins what is no part of an address")
    if parts.netloc.count("@") > 1 or "@" in parts.path:
        raise UnusableURL("has an @ too many, or a / in front of it")
    query = _query(parts.query)
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts, ports = _places(places)
    if "host" in query:
        hosts, ports = _places(query["host"])
    elif not hosts and os.environ.get("PGHOST"):
        hosts, ports = _places(os.environ["PGHOST"])
    if "port" in query:
        ports = (_port(query["port"]),) * max(1, len(hosts))
    path = parts.path.removeprefix("/")
    if "/" in path:
        raise UnusableURL("has more than the name of a database behind the host")
    return PostgresURL(
        hosts,
        ports,
        query.get("user", _decoded(user)) or None,
        query.get("password", _decoded(password)) or None,
        query.get("dbname", _decoded(path)) or None,
        _mode(query.get("sslmode"), hosts),
        _system_or_path(query.get("sslrootcert")),
        _path(query.get("sslcert")),
        _path(query.get("sslkey")),
        query.get("passfile"),
        query.get("target_session_attrs"),
    )


def _query(text: str) -> dict[str, str]:
    if not text:
        return {}
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    query = dict(pairs)
    if not _KNOWN.issuperset(query):
        # Not repeated: it may be a piece of the password.
        raise UnusableURL(
            f"has an attribute behind the ? that is none of {', '.join(sorted(_KNOWN))}",
            f"Leave it out; if the ? is part of the password: {_ENCODE}",
        )
    if len(query) != len(pairs):
        raise UnusableURL("has an attribute behind the ? twice", "Keep one of them")
    return query


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise UnusableURL("has a % that no two hexadecimal digits follow")
    return unquote(text, errors="strict")


def _places(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    found = [_place(part) for part in text.split(",")] if text else []
    return tuple(host for host, _ in found), tuple(port for _, port in found)


def _place(text: str) -> tuple[str, int]:
    text = _decoded(text)
    if text.startswith(("/", "@")):
        return text, DEFAULT_PORT
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UnusableURL("has no host that could be read")
        ipaddress.IPv6Address(host)
        return host, _port(rest[1:]) if rest else DEFAULT_PORT
    host, colon, port = text.partition(":")
    if not host or not all(char.isalnum() or char in ".-_" for char in host):
        raise UnusableURL("has no host that could be read")
    return host, _port(port) if colon else DEFAULT_PORT


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise UnusableURL("has a port that is no number up to 65535")
    return int(text)


def _mode(text: str | None, hosts: tuple[str, ...]) -> TLSMode | None:
    if text in _DOWNGRADED:
        if all(map(is_local, hosts)):
            return None
        raise UnusableURL(
            "asks with sslmode for TLS that whoever stands in between may turn off",
            "Leave sslmode out: the server's certificate and name are then checked (verify-full); name its root in "
            "sslrootcert=/path/root.pem if it is not one of the system's",
        )
    if text is not None and text not in get_args(TLSMode):
        raise UnusableURL(
            "has a sslmode that is not known", f"Use one of {', '.join(get_args(TLSMode))}"
        )
    return cast("TLSMode | None", text)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _system_or_path(text: str | None) -> Path | None:
    return None if text == "system" else _path(text)


def usable_postgres_url(text: str) -> PostgresURL | UnusableURL:
    """Return what a URL says, or why it cannot be used: not raised, so that no error has it as its context."""
    try:
        url = parse_postgres_url(text)
        url.tls_context()
    except UnusableURL as error:
        return error.with_traceback(None)
    return url
