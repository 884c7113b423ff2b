"""URLs of CRLs in directories (RFC 4516)."""

from __future__ import annotations

import socket
import time

import pytest

from ra_gateway.ldap import LDAPURL, _Bounded, parse_url


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
