"""URLs of CRLs in directories (RFC 4516), and what a directory may say."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from ra_gateway import ldap
from ra_gateway.cmp import asn1
from ra_gateway.errors import MalformedMessage
from ra_gateway.ldap import LDAPURL, LDAPFailure, _Bounded, parse_url


@pytest.mark.parametrize(
    "url, expected",
    [
        (
            "ldap://x/cn=CA,o=Op?certificateRevocationList;binary",
            LDAPURL("x", 389, False, "cn=CA,o=Op", "certificateRevocationList"),
        ),
        (
            "ldaps://[::1]:1636/cn=What%3F%2C%20x?AuthorityRevocationList?one?(cn=a%3Fb)",
            LDAPURL(
                "::1", 1636, True, "cn=What?, x", "authorityRevocationList", "LEVEL", "(cn=a?b)"
            ),
        ),
        (
            "ldap://x/o=Op?deltaRevocationList?base",
            LDAPURL("x", 389, False, "o=Op", "deltaRevocationList"),
        ),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: LDAPURL) -> None:
    """Escapes are resolved after it was."""
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ldap:///cn=CA?certificateRevocationList",
        "ldap://x/?certificateRevocationList",
        "ldap://x/cn=CA",
        "ldap://x/cn=CA?userPassword",
        "ldap://x/cn=CA?certificateRevocationList,userPassword",
        "ldap://x/cn=CA?certificateRevocationList?subtree",
        "ldap://x/cn=CA?certificateRevocationList???!bindname=cn%3Da",
        "ldap://user:secret@x/cn=CA?certificateRevocationList",
        "ldap://x:0x/cn=CA?certificateRevocationList",
        "http://x/cn=CA?certificateRevocationList",
    ],
)
def test_what_is_no_url_of_a_crl(url: str) -> None:
    """Nothing else is ever asked for."""
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)


def test_what_a_directory_says_has_an_end() -> None:
    """By octets, which TLS goes on with, and by time: also where something has come."""
    far = time.monotonic() + 1000.0
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"abcdef")
        bounded = _Bounded(ours, 5, far)
        assert bounded.recv(3) == b"abc"
        assert 0.0 < ours.gettimeout() <= 1000.0  # type: ignore[operator]
        with pytest.raises(OSError, match="more than is read"):
            bounded.around(ours).recv(3)
        theirs.sendall(b"x")
        with pytest.raises(TimeoutError, match="takes too long"):
            _Bounded(ours, 5, time.monotonic()).recv(1)


# --- answers that are none ----------------------------------------------------------------------------------------


def ldap_message(number: int, tag: int, *content: bytes) -> bytes:
    return asn1.tlv(0x30, asn1.encode(number), asn1.tlv(tag, *content))


def ldap_result(number: int, tag: int) -> bytes:
    return ldap_message(number, tag, b"\x0a\x01\x00", b"\x04\x00", b"\x04\x00")


def login(number: int) -> bytes:
    return ldap_result(number, 0x61)


def found(number: int) -> bytes:
    """An entry with a CRL, and that the search is done."""
    attribute = asn1.tlv(0x04, b"certificateRevocationList;binary")
    values = asn1.tlv(0x31, asn1.tlv(0x04, b"\x30\x00"))
    entry = asn1.tlv(0x04, b"cn=ca"), asn1.tlv(0x30, asn1.tlv(0x30, attribute, values))
    return ldap_message(number, 0x64, *entry) + ldap_result(number, 0x65)


def changed(number: int) -> bytes:
    return ldap_result(number, 0x67)


@contextmanager
def directory_that_says(*said: Callable[[int], bytes]) -> Iterator[int]:
    """A server on the loopback address that answers each message with the next of these, and then ends."""

    def serve() -> None:
        with suppress(OSError, MalformedMessage), listening.accept()[0] as client:
            client.settimeout(5)
            for answer in said:
                number = asn1.parts(client.recv(65536), 3, "LDAPMessage")[0]
                client.sendall(answer(int.from_bytes(asn1.inner(number), "big")))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
    thread.join()


def broken(seed: int, octets: bytes) -> bytes:
    """Octets, some of which are others, away or more."""
    draw, other = random.Random(seed), bytearray(octets)
    for _ in range(draw.randint(1, 3)):
        at, what = draw.randrange(len(other)), draw.random()
        if what < 0.6:
            other[at] = draw.choice((0, 1, 4, 0x30, 0x31, 0x64, 0x65, 0x61, 0x80, 0x84, 0xFF))
        elif what < 0.8:
            del other[at]
        else:
            other.insert(at, draw.randrange(256))
    return bytes(other)


def asked(port: int, answer: Callable[[int], bytes], seconds: float) -> None:
    """Ask a directory for what it answers so."""
    if answer is found:
        url = f"ldap://127.0.0.1:{port}/cn=ca?certificateRevocationList"
        assert ldap.fetch(url, max_octets=1000, timeout_seconds=seconds)
    else:
        values = {"certificateRevocationList": b"\x30\x00"}
        ldap.Directory("127.0.0.1", port).write("cn=ca", values, seconds)


@pytest.mark.parametrize("answer", [found, changed])
@pytest.mark.parametrize("of_login", [True, False], ids=["login", "answer"])
def test_whatever_a_directory_says_is_a_failure_at_most(
    answer: Callable[[int], bytes], of_login: bool
) -> None:
    """ldap3 raises KeyError, IndexError, TypeError and more for what it cannot read."""
    with directory_that_says(login, answer) as port:
        asked(port, answer, 10.0)
    for seed in range(40):

        def spoilt(number: int, seed: int = seed) -> bytes:
            return broken(seed, login(number) if of_login else answer(number))

        said = (spoilt, answer) if of_login else (login, spoilt)
        with directory_that_says(*said) as port, suppress(LDAPFailure):
            asked(port, answer, 0.05)


@pytest.mark.parametrize("fault", [KeyError("x"), IndexError(), TypeError(), RecursionError()])
def test_what_is_done_with_a_connection_fails_as_one_thing(fault: Exception) -> None:
    """Also what the caller does with an answer that is none."""
    with (
        directory_that_says(login) as port,
        pytest.raises(LDAPFailure),
        ldap.Directory("127.0.0.1", port).connected(1000, 10.0),
    ):
        raise fault


def test_a_port_that_is_none_is_a_failure() -> None:
    """Of a URL that somebody else may have written."""
    with pytest.raises(LDAPFailure):
        ldap.Directory("127.0.0.1", 99_999).missing("cn=ca", 1.0)
