"""LDAPv3 directories: where CRLs and CA certificates are published, and fetched from (TS 33.310 6.1a, RFC 4523).

A directory that is asked is not trusted with anything: an endless or dripping answer ends at the size limit or the
deadline, referrals are not followed, and of an entry only the attributes that hold CRLs are asked for. What waits
here waits for the network: call it in a thread.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import ldap3  # slow to load, and needed where a directory is configured only

CRL_ATTRIBUTES: Final = (
    "certificateRevocationList",
    "authorityRevocationList",
    "deltaRevocationList",
)
"""Attributes that hold CRLs (RFC 4523 2.4 to 2.6); a URL has to name one of them."""

PORTS: Final = {"ldap": 389, "ldaps": 636}

_CLASSES: Final = ("cRLDistributionPoint", "pkiCA")
"""Object classes of an entry that is made here (RFC 4523 3)."""

_PATHS: Final = {"": "BASE", "base": "BASE", "one": "LEVEL", "sub": "SUBTREE"}
_MAX_ENTRIES: Final = 10
"""Of one answer: a distribution point is one entry (RFC 5280 4.2.1.13)."""

_OVERHEAD_OCTETS: Final = 65_536
"""Of an answer around the CRL that it holds."""


_READ_OCTETS: Final = 1 << 20
"""At once: ldap3 puts an answer together anew with every piece."""


class LDAPFailure(Exception):
    """A directory could not be asked, or did not do it; the text says why, for the operator."""


@dataclass(frozen=True, slots=True)
class LDAPURL:
    """What an LDAP URL says (RFC 4516).

    Args:
        tls: Whether it is an ldaps URL.
        attribute: Without options.
    """

    host: str
    port: int
    tls: bool
    dn: str
    attribute: str
    scope: str = "BASE"
    filter: str = "(objectClass=*)"


def parse_url(url: str) -> LDAPURL:
    """Read the URL of a CRL in a directory, like ldap://host/cn=CA,o=Op?certificateRevocationList;binary.

    Raises:
        ValueError: It is none; the text says why.
    """
    # The parts are taken apart before their %XX are resolved: a DN may hold a question mark.
    base, *queries = url.split("?")
    parts = urlsplit(base)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("is not of the form ldap://HOST/DN?certificateRevocationList;binary")
    if "@" in parts.netloc or len(queries) > 4 or queries[3:] not in ([], [""]):
        raise ValueError("has more than a DN, an attribute, a scope and a filter")
    attribute, scope, search = (unquote(item) for item in (*queries, "", "", "")[:3])
    names = {name.lower(): name for name in CRL_ATTRIBUTES}
    name = names.get(attribute.lower().removesuffix(";binary"))
    if name is None:
        raise ValueError(f"names no attribute out of {', '.join(CRL_ATTRIBUTES)}")
    if scope.lower() not in _PATHS:
        raise ValueError("has a scope that is not base, one or sub")
    dn = unquote(parts.path.removeprefix("/"))
    if not dn:
        raise ValueError("has no DN")
    return LDAPURL(
        parts.hostname,
        parts.port or PORTS[parts.scheme],
        parts.scheme == "ldaps",
        dn,
        name,
        _PATHS[scope.lower()],
        search or "(objectClass=*)",
    )


def is_dn(text: str) -> bool:
    """Tell whether a text is a distinguished name as directories write it (RFC 4514)."""
    from ldap3.core.exceptions import LDAPInvalidDnError
    from ldap3.utils.dn import parse_dn

    try:
        return bool(parse_dn(text))
    except LDAPInvalidDnError:
        return False


def fetch(url: str, *, max_octets: int, timeout_seconds: float) -> bytes:
    """Return the CRLs that a URL names, one after the other (DER).

    Raises:
        LDAPFailure: They are not to be had.
    """
    try:
        where = parse_url(url)
    except ValueError as error:
        raise LDAPFailure(str(error)) from error
    server = Directory(where.host, where.port, where.tls)
    with server.connected(max_octets + _OVERHEAD_OCTETS, timeout_seconds) as connection:
        found = connection.search(
            where.dn,
            where.filter,
            search_scope=where.scope,
            attributes=[f"{where.attribute};binary"],
            size_limit=_MAX_ENTRIES,
        )
        # With entries, an answer that was cut off counts as found.
        if not found or connection.result["description"] != "success":
            raise LDAPFailure(_reason(connection))
        values = [bytes(item) for item in _values(connection.response or (), where.attribute)]
    if not values:
        raise LDAPFailure(f"the entry has no {where.attribute}")
    if sum(map(len, values)) > max_octets:
        raise LDAPFailure(f"more than {max_octets} bytes")
    return b"".join(values)


def _values(response: Sequence[Mapping[str, Any]], attribute: str) -> Iterator[bytes]:
    for entry in response:
        for name, values in entry.get("raw_attributes", {}).items():
            if name.lower().partition(";")[0] == attribute.lower():
                yield from values


_FIRST_RDN: Final = re.compile(r"(?:[^\\,]|\\.)*,\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory server and how it is logged into.

    Args:
        tls: From the first octet (ldaps).
        start_tls: TLS after StartTLS (RFC 4511 4.14).
        ca_path: File with the CAs that the server's certificate may be below; None for the system's.
        bind_dn: "" for anonymous.
    """

    host: str
    port: int
    tls: bool = False
    start_tls: bool = False
    ca_path: str | None = None
    bind_dn: str = ""
    password: str = ""

    def write(self, dn: str, values: Mapping[str, bytes], timeout_seconds: float) -> None:
        """Give an entry attributes in place of those it has; make the entry if there is none.

        Args:
            values: DER by attribute, out of `CRL_ATTRIBUTES` and cACertificate.

        Raises:
            LDAPFailure: It was not done.
        """
        octets = {f"{name};binary": [value] for name, value in values.items()}
        with self.connected(_OVERHEAD_OCTETS, timeout_seconds) as connection:
            changes = {name: [("MODIFY_REPLACE", value)] for name, value in octets.items()}
            if connection.modify(dn, changes):
                return
            if connection.result["description"] != "noSuchObject":
                raise LDAPFailure(_reason(connection))
            kind, _, _name = dn.partition(",")[0].partition("=")
            if kind.strip().lower() != "cn":
                raise LDAPFailure(
                    f"there is no entry {dn}, and only one named by cn can be made here"
                )
            classes = [*_CLASSES, *(["deltaCRL"] if "deltaRevocationList" in values else [])]
            if not connection.add(dn, classes, octets):
                raise LDAPFailure(f"no entry {dn} could be made: {_reason(connection)}")

    def missing(self, dn: str, timeout_seconds: float) -> str:
        """Return which entry is not there: the one of a DN, the one above that, or none ("").

        Raises:
            LDAPFailure: The directory does not answer, or refuses.
        """
        above = _FIRST_RDN.sub("", dn, count=1)
        with self.connected(_OVERHEAD_OCTETS, timeout_seconds) as connection:
            for name, lacking in ((dn, ""), (above, dn)):
                connection.search(name, "(objectClass=*)", "BASE", attributes=["1.1"])
                if connection.result["description"] == "success":
                    return lacking
                if connection.result["description"] != "noSuchObject":
                    raise LDAPFailure(f"{name}: {_reason(connection)}")
        return above

    @contextmanager
    def connected(self, max_octets: int, timeout_seconds: float) -> Iterator[ldap3.Connection]:
        """Log in, and out at the end.

        Args:
            max_octets: Of all that the directory says.
            timeout_seconds: For all of it.

        Raises:
            LDAPFailure: It does not answer, or refuses; also for what is done with the connection.
        """
        connection = None
        deadline = time.monotonic() + timeout_seconds
        try:
            connection = self._connection(timeout_seconds)
            connection.open(read_server_info=False)
            connection.strategy.socket_size = _READ_OCTETS
            connection.socket = _Bounded(connection.socket, max_octets, deadline)
            if self.start_tls and not connection.start_tls(read_server_info=False):
                raise LDAPFailure(f"StartTLS was refused: {_reason(connection)}")
            if not connection.bind(read_server_info=False):
                raise LDAPFailure(f"the login was refused: {_reason(connection)}")
            yield connection
        except LDAPFailure:
            raise
        except Exception as error:
            # ldap3 reads what comes without a look at its form: of a broken answer whatever may be raised.
            raise LDAPFailure(f"{type(error).__name__}: {error}") from error
        finally:
            if connection is not None:
                _close(connection)

    def _connection(self, timeout_seconds: float) -> ldap3.Connection:
        import ldap3

        server = ldap3.Server(
            self.host,
            self.port,
            use_ssl=self.tls,
            tls=_tls(self.host, self.ca_path),
            get_info=ldap3.NONE,
            connect_timeout=timeout_seconds,
        )
        return ldap3.Connection(
            server,
            self.bind_dn or None,
            self.password or None,
            authentication=ldap3.SIMPLE if self.bind_dn else ldap3.ANONYMOUS,
            auto_referrals=False,
            receive_timeout=max(1, int(timeout_seconds)),
            raise_exceptions=False,
            check_names=False,
        )


def _tls(host: str, ca_path: str | None) -> ldap3.Tls:
    """Return what begins TLS as Python does by default: ldap3 checks the server's name by means that Python gave up."""
    import ldap3

    class TLS(ldap3.Tls):  # type: ignore[misc]
        def wrap_socket(self, connection: ldap3.Connection, do_handshake: bool = False) -> None:
            context, socket = ssl.create_default_context(cafile=ca_path), connection.socket
            if isinstance(socket, _Bounded):
                socket.wait_no_longer()
                wrapped = context.wrap_socket(socket.bare, server_hostname=host)
                connection.socket = socket.around(wrapped)
            else:
                connection.socket = context.wrap_socket(socket, server_hostname=host)

    return TLS(validate=ssl.CERT_REQUIRED)


def _close(connection: ldap3.Connection) -> None:
    with suppress(Exception):  # there is nothing more to be had of it
        if not connection.closed:
            connection.unbind()
    with suppress(Exception):
        connection.socket.close()


def _reason(connection: ldap3.Connection) -> str:
    result = connection.result or {}
    return " ".join(
        str(result.get(key, "")) for key in ("description", "message") if result.get(key)
    )


class _Bounded:
    """A socket that gives up when too much has come, or too late."""

    def __init__(self, socket: Any, max_octets: int, deadline: float) -> None:
        self.bare = socket
        self._left = max_octets
        self._deadline = deadline

    def recv(self, size: int) -> bytes:
        self.wait_no_longer()
        octets: bytes = self.bare.recv(size)
        self._left -= len(octets)
        if self._left < 0:
            raise OSError("the directory says more than is read of it")
        return octets

    def wait_no_longer(self) -> None:
        """Have whatever waits for the directory next end at the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the directory takes too long")
        self.bare.settimeout(left)

    def around(self, socket: Any) -> _Bounded:
        """Return another socket with what is left."""
        return _Bounded(socket, self._left, self._deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)
