"""CRLs in a real LDAP directory: published there by the CA, and fetched from there (TS 33.310 6.1a)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog

from ra_gateway import ldap
from ra_gateway.ca import crl_directory
from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.crl_directory import CRLDirectory
from ra_gateway.ca.cross import RootKey, make_root_crl
from ra_gateway.ca.keys import create_operator_pki
from ra_gateway.ca.root_record import RootCRL
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import StatusRefused
from ra_gateway.keys import load_certificates
from ra_gateway.revocation.fetching import Downloader, Limits
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.settings import Mode, RevocationSettings
from tests.support.crls import make_crl
from tests.support.pki import make_root
from tests.support.slapd import ADMIN, PASSWORD, SUFFIX, Slapd
from tests.support.status import StatusCA, status_ca

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENTRY = f"cn={{issuer}},{SUFFIX}"
CRL = make_crl(make_root("A CA"), this_update=NOW)
LIMITS = Limits(1_000_000, 60.0)


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[StatusCA]:
    async with status_ca(tmp_path, NOW) as made:
        yield made


def directory(slapd: Slapd, **changes: object) -> ldap.Directory:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": slapd.port,
        "bind_dn": ADMIN,
        "password": PASSWORD,
    }
    return ldap.Directory(**values | changes)  # type: ignore[arg-type]


def crl_url(slapd: Slapd, dn: str, attribute: str = "certificateRevocationList;binary") -> str:
    return f"ldap://127.0.0.1:{slapd.port}/{quote(dn)}?{attribute}"


@pytest.mark.requirement("T23", "T24")
async def test_a_crl_is_published_and_fetched(ca: StatusCA, slapd: Slapd) -> None:
    """Full and delta, the new one in place of the old; the octets are those that the CA signed."""
    publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings(delta_minutes=60))
    kept = CRLDirectory(
        [ca.issuing], publisher, directory(slapd, start_tls=True, ca_path=root(slapd)), ENTRY,
        deltas=True, check_seconds=0.0,
    )  # fmt: skip
    assert await kept.refresh()  # there is none yet
    dn = ENTRY.replace("{issuer}", ca.issuing.id)
    downloader = Downloader()
    for _ in range(2):
        full = await publisher.publish(ca.issuing)
        delta = await publisher.publish(ca.issuing, delta=True)
        assert await kept.refresh()
        assert await downloader.get(crl_url(slapd, dn), LIMITS) == full.der
        url = crl_url(slapd, dn, "deltaRevocationList")
        assert await downloader.get(url, LIMITS) == delta.der


@pytest.mark.requirement("T23", "T26")
async def test_the_roots_crl_is_published(ca: StatusCA, slapd: Slapd, tmp_path: Path) -> None:
    """In an entry of its own, under the names of either kind of list, as soon as there is one, and the next."""
    made = tmp_path / "ca"
    await create_operator_pki(made, now=NOW, name="Op")
    root_ca = load_certificates(made / "root.pem", "root")[0]
    publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings())
    kept = CRLDirectory(
        [ca.issuing], publisher, directory(slapd), ENTRY,
        root=root_ca, root_crl=RootCRL(made),
    )  # fmt: skip
    assert await kept.refresh()  # there is none yet
    assert root_ca.subject_key_identifier is not None
    dn = ENTRY.replace("{issuer}", root_ca.subject_key_identifier.hex())
    downloader = Downloader()
    for first in (True, False):
        make_root_crl(made, RootKey(), now=NOW, days=30, revoke={}, first=first)
        assert await kept.refresh()
        for attribute in ("certificateRevocationList;binary", "authorityRevocationList"):
            found = await downloader.get(crl_url(slapd, dn, attribute), LIMITS)
            assert found == (made / "root.crl").read_bytes()


@pytest.mark.requirement("T24")
async def test_a_gateway_hears_of_a_revocation_by_ldap(ca: StatusCA, slapd: Slapd) -> None:
    """It stands in the CRL of the directory that the domain names."""
    publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings())
    await publisher.publish(ca.issuing)
    kept = CRLDirectory([ca.issuing], publisher, directory(slapd), ENTRY)
    assert await kept.refresh()
    url = crl_url(slapd, ENTRY.replace("{issuer}", ca.issuing.id))
    domain = TrustDomain("operator", DomainKind.operator, (ca.issuing.certificate,))
    known = Revocation(
        [(domain, RevocationSettings(Mode.hard, crl_urls=(url,)))], lambda: ca.clock()
    )
    await known.start()
    try:
        (state,) = [item for item in known.states() if item.source == url]
        assert state.fresh
        assert state.last_error == ""
    finally:
        await known.stop()


def root(slapd: Slapd) -> str:
    return str(slapd.directory / "root.pem")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"password": "wrong"}, "the login was refused: invalidCredentials"),
        ({"bind_dn": "", "password": ""}, "strongerAuthRequired"),
        ({"start_tls": True}, "certificate"),  # its CA is none of the system's
        ({"port": 1}, "LDAPSocketOpenError"),
    ],
    ids=["password", "nobody", "certificate", "nobody listens"],
)
async def test_a_directory_that_refuses_is_told(
    changes: dict[str, object], reason: str, ca: StatusCA, slapd: Slapd
) -> None:
    """And tried again: what was not written counts as not written."""
    publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings())
    await publisher.publish(ca.issuing)
    entry = f"cn={{issuer}}-refused,{SUFFIX}"
    kept = CRLDirectory([ca.issuing], publisher, directory(slapd, **changes), entry)
    with structlog.testing.capture_logs() as logs:
        assert not await kept.refresh()
        assert not await kept.refresh()
    assert [item["outcome"] for item in logs] == ["failed", "failed"]
    assert reason in logs[0]["detail"]
    assert PASSWORD not in str(logs)


async def test_an_entry_that_cannot_be_made_is_told(ca: StatusCA, slapd: Slapd) -> None:
    """Where its parent is missing, or another attribute than cn names it."""
    values = {"certificateRevocationList": CRL}
    for dn, reason in ((f"cn=x,ou=absent,{SUFFIX}", "noSuchObject"), (f"ou=x,{SUFFIX}", "by cn")):
        with pytest.raises(ldap.LDAPFailure, match=reason):
            await asyncio.to_thread(directory(slapd).write, dn, values, 60.0)


async def test_tls_from_the_first_octet(slapd: Slapd) -> None:
    """Below the CA that is named."""
    secure = directory(slapd, port=slapd.tls_port, tls=True, ca_path=root(slapd))
    values = {"certificateRevocationList": CRL}
    await asyncio.to_thread(secure.write, f"cn=secure,{SUFFIX}", values, 60.0)
    url = crl_url(slapd, f"cn=secure,{SUFFIX}")
    assert await Downloader().get(url, LIMITS) == CRL


@pytest.mark.parametrize("first", [True, False])
async def test_the_directory_has_the_name_that_is_configured(first: bool, slapd: Slapd) -> None:
    """Its certificate is for 127.0.0.1; the same address by another name is nobody's, with ldaps and StartTLS."""
    port = slapd.tls_port if first else slapd.port
    other = directory(
        slapd, host="127.1", port=port, tls=first, start_tls=not first, ca_path=root(slapd)
    )
    with pytest.raises(ldap.LDAPFailure, match="mismatch"):
        await asyncio.to_thread(other.write, f"cn=x,{SUFFIX}", {"cACertificate": CRL}, 60.0)


async def test_a_referral_is_not_followed(slapd: Slapd) -> None:
    """Whoever may write an entry could else have the gateway speak to anybody."""
    dn = f"cn=elsewhere,{SUFFIX}"
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        ref = f"ldap://127.0.0.1:{trap.getsockname()[1]}/cn=x"

        def refer() -> None:
            with directory(slapd).connected(1_000_000, 60.0) as connection:
                classes = ["referral", "extensibleObject"]
                assert connection.add(dn, classes, {"ref": ref}), connection.result

        await asyncio.to_thread(refer)
        with pytest.raises(StatusRefused, match="referral"):
            await Downloader().get(crl_url(slapd, dn), LIMITS)
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.parametrize(
    "dn, attribute, limit, reason",
    [
        (f"cn=absent,{SUFFIX}", "certificateRevocationList", 100, "noSuchObject"),
        (SUFFIX, "certificateRevocationList", 100, "has no certificateRevocationList"),
        (f"cn=large,{SUFFIX}", "certificateRevocationList", 100, "more than"),
        (f"cn=large,{SUFFIX}", "userPassword", 100, "names no attribute"),
    ],
    ids=["no entry", "no CRL", "too large", "another attribute"],
)
async def test_a_crl_that_is_not_to_be_had(
    dn: str, attribute: str, limit: int, reason: str, slapd: Slapd
) -> None:
    """Says why."""
    values = {"certificateRevocationList": CRL}
    await asyncio.to_thread(directory(slapd).write, f"cn=large,{SUFFIX}", values, 60.0)
    with pytest.raises(StatusRefused, match=reason):
        await Downloader().get(crl_url(slapd, dn, attribute), Limits(limit, 60.0))


async def test_an_answer_of_many_entries_is_refused(slapd: Slapd) -> None:
    """A distribution point is one entry, or a few; the first of many are not all that was revoked."""
    for number in range(11):
        values = {"certificateRevocationList": CRL}
        await asyncio.to_thread(directory(slapd).write, f"cn=many-{number},{SUFFIX}", values, 60.0)
    url = crl_url(slapd, SUFFIX, "certificateRevocationList;binary?sub")
    with pytest.raises(StatusRefused, match="sizeLimitExceeded"):
        await Downloader().get(url, LIMITS)


@pytest.fixture
def endless() -> Iterator[int]:
    """Port of a server that begins an answer of 2 GB and goes on and on."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                try:
                    connection.sendall(b"\x30\x84\x7f\xff\xff\xff")
                    while not ended.is_set():
                        connection.sendall(bytes(65536))
                except OSError:
                    pass  # it was given up

        thread = threading.Thread(target=talk)
        thread.start()
        yield server.getsockname()[1]
        ended.set()
        thread.join()


async def test_an_answer_to_start_tls_ends(endless: int) -> None:
    """Likewise, before anything is bound."""
    server = ldap.Directory("127.0.0.1", endless, start_tls=True)
    with pytest.raises(ldap.LDAPFailure, match="more than is read"):
        await asyncio.to_thread(server.write, "cn=x", {"certificateRevocationList": CRL}, 250.0)


async def test_what_was_removed_is_written_again(
    ca: StatusCA, slapd: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time, without a new CRL."""
    publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings())
    crl = await publisher.publish(ca.issuing)
    monkeypatch.setattr(crl_directory, "_BELIEVED_SECONDS", -1.0)
    kept = CRLDirectory([ca.issuing], publisher, directory(slapd), ENTRY)
    assert await kept.refresh()
    dn = ENTRY.replace("{issuer}", ca.issuing.id)
    values = {"certificateRevocationList": CRL}
    await asyncio.to_thread(directory(slapd).write, dn, values, 60.0)
    assert await kept.refresh()
    assert await Downloader().get(crl_url(slapd, dn), LIMITS) == crl.der


async def test_an_endless_answer_ends(endless: int) -> None:
    """At the limit of octets."""
    url = f"ldap://127.0.0.1:{endless}/cn=x?certificateRevocationList"
    with pytest.raises(StatusRefused, match="more than is read"):
        await Downloader().get(url, Limits(1000, 250.0))
