"""What one value must be: names, URLs and texts; and the table they stand in. Files are in `files`."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ra_gateway.cmp.names import from_rfc4514


class Table(BaseModel):
    """A TOML table: unknown keys refused, nothing converted silently, never changed once loaded."""

    # hide_input: pydantic's own error text, should it ever be logged, must not repeat a secret.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        # What validates is built for the whole of a configuration once it is read, not for each table of it.
        defer_build=True,
    )


@dataclass(frozen=True)
class ByName:
    """Marks a type as members of an enum that stand in the file by their names.

    Args:
        members: Those that may.
    """

    members: tuple[Enum, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What may stand there."""
        return tuple(member.name for member in self.members)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        """Return how a name is read (pydantic)."""
        members = {member.name: member for member in self.members}
        return core_schema.no_info_after_validator_function(
            members.__getitem__, core_schema.literal_schema(list(members))
        )


def did_you_mean(word: object, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return a question with the known word nearest to one, after a blank; nothing if none is near."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def wrong(what: str, todo: str) -> PydanticCustomError:
    """Return the error for a value: what is wrong with it, and what to do."""
    # The texts travel in the context: in the template, braces would be taken for placeholders.
    return PydanticCustomError("setting", "{what}", {"what": what, "todo": todo})


def require_dn(text: str) -> str:
    """Return a distinguished name, if it is one in the form of RFC 4514."""
    try:
        from_rfc4514(text)
    except ValueError as error:
        raise wrong(
            f"is not a distinguished name in the form of RFC 4514: {error}",
            'Write it like "CN=enb1.example.net,O=Example": most specific part first, numbers for attributes that '
            "have no name here (1.3.6.1.4.1.99999.1=one).",
        ) from None
    return text


def require_url(text: str, schemes: tuple[str, ...]) -> str:
    """Return a URL, if it has one of some schemes, and a host."""
    todo = f"Write it like {schemes[0]}://host:port/path, starting with {' or '.join(schemes)}."
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong("is not a URL", todo) from None
    if parts.scheme not in schemes or (parts.scheme != "unix" and not parts.hostname) or port == 0:
        raise wrong("is not a usable URL", todo)
    return text


def _cmp_url(text: str) -> str:
    if "@" in urlsplit(require_url(text, ("http", "https"))).netloc:
        raise wrong(
            "holds a user name or a password",
            "Take it out: CMP messages are authenticated by their signature, not by HTTP.",
        )
    return text


def _api_url(text: str) -> str:
    parts = urlsplit(require_url(text, ("https", "http")))
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong(
            "is more than the address of an API",
            "Write it like https://ca.example.net:9000: no user, no password, no query.",
        )
    # What is sent there is authenticated by a token, which whoever listens could use.
    if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE:
        raise wrong("is not https", "Write https://; http is for 127.0.0.1 only.")
    return text


_THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")


def _path_segments(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*/?", text):
        raise wrong(
            "is not a part of a path",
            "Use letters, digits, ., - and _, with slashes between parts.",
        )
    return text


def _network(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError("a zone, which is this machine's name for a network card")
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise wrong(
            "is neither an IP address nor a network",
            'Write it like "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32".',
        ) from None
    if "/" in text and text.split("/")[0] != str(network.network_address):
        raise wrong("has bits behind its prefix", f'Write "{network}", or leave /... out.')
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        # Addresses are compared as IPv4 where they are that: this would be nobody's.
        raise wrong("is IPv4 in IPv6", 'Write it as IPv4, like "192.0.2.7" or "192.0.2.0/24".')
    if not network.prefixlen:
        raise wrong("is everybody", "Name those that you trust.")
    return text


def _proxy_url(text: str) -> str:
    parts = urlsplit(require_url(text, ("http",)))
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong(
            "is more than the address of a proxy",
            "Write it like http://proxy.example.net:3128: no user, no password, no path.",
        )
    return text


def climbs(path: str) -> bool:
    """Tell whether a path has segments that HTTP clients and proxies take for steps, and not for names."""
    return not {".", ".."}.isdisjoint(path.split("/"))


def _ca_path(path: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._~/-]*", path) or "//" in path or climbs(path):
        raise wrong(
            "is not what may stand behind a URL",
            "Write the profile's or alias's name; letters, digits, and - . _ ~ with slashes between parts.",
        )
    return path


Seconds = Annotated[float, Field(allow_inf_nan=False, gt=0)]
WholeSeconds = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
DN = Annotated[str, AfterValidator(require_dn)]
CMPURL = Annotated[str, AfterValidator(_cmp_url)]
APIURL = Annotated[str, AfterValidator(_api_url)]
PathSegments = Annotated[str, AfterValidator(_path_segments)]
IPNetwork = Annotated[str, AfterValidator(_network)]
ProxyURL = Annotated[str, AfterValidator(_proxy_url)]
CAPath = Annotated[str, AfterValidator(_ca_path)]

Row = TypeVar("Row")
Named = Mapping[Name, Row]
