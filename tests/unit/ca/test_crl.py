"""CRLs: what is in them, read by somebody else's parser, and when they are made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.ca.crl import CRLContent, CRLPublisher, CRLSettings, _Newest, encode_entries
from ra_gateway.ca.ledger.backup import dump, restore
from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.ca.records import CertificateStatus, Reason, RevokedCertificate, StoredCRL
from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import ConfigError, ServiceFailure, StoreUnavailable
from tests.support import pki
from tests.support.desk import Clock
from tests.support.empty_ledger import new_ledger
from tests.support.status import (
    CONFIRM_WAIT,
    Failing,
    IssuingCA,
    StatusCA,
    issuing_ca,
    status_ca,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WITHOUT_DELTAS = CRLSettings()
WITH_DELTAS = CRLSettings(
    delta_minutes=60, delta_url="http://crl.example.net/crl/{issuer}-delta.crl"
)


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[StatusCA]:
    async with status_ca(tmp_path, NOW) as made:
        yield made


def publisher(
    ca: StatusCA, settings: CRLSettings = WITHOUT_DELTAS, ledger: Any = None
) -> CRLPublisher:
    return CRLPublisher([ca.issuing], ledger or ca.ledger, ca.clock, settings)


def parsed(crl: StoredCRL | None) -> x509.CertificateRevocationList:
    assert crl is not None
    return x509.load_der_x509_crl(crl.der)


def reasons(crl: StoredCRL | None) -> dict[int, x509.ReasonFlags | None]:
    """Return serial number to reason."""
    found: dict[int, x509.ReasonFlags | None] = {}
    for entry in parsed(crl):
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        except x509.ExtensionNotFound:
            reason = None
        found[entry.serial_number] = reason
    return found


def serial(credential: pki.Credential) -> int:
    return credential.certificate.serial_number


def extension(crl: x509.CertificateRevocationList, kind: Any) -> Any:
    return crl.extensions.get_extension_for_class(kind).value


# --- What is in them ------------------------------------------------------------------------------------------


@pytest.mark.requirement(129)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "mldsa44"])
async def test_a_full_crl(tmp_path: Path, kind: pki.KeyKind) -> None:
    """Whatever the key, it is a v2 CRL of the issuing CA that lists what is revoked, and why."""
    async with status_ca(tmp_path, NOW, kind) as ca:
        kept, stolen, gone = [await ca.issue() for _ in range(3)]
        await ca.revoke(stolen, Reason.keyCompromise)
        await ca.revoke(gone)
        stored = await publisher(ca).publish(ca.issuing)
        crl = parsed(stored)
        assert crl.is_signature_valid(ca.operator.issuing.private_key.public_key())
        assert crl.issuer == ca.operator.issuing.certificate.subject
        assert crl.last_update_utc == stored.this_update == NOW
        assert crl.next_update_utc == stored.next_update == NOW + timedelta(hours=48)
        assert reasons(stored) == {
            serial(stolen): x509.ReasonFlags.key_compromise,
            serial(gone): None,
        }
        assert {entry.revocation_date_utc for entry in crl} == {NOW}
        assert extension(crl, x509.CRLNumber).crl_number == stored.number
        assert (
            extension(crl, x509.AuthorityKeyIdentifier).key_identifier.hex()
            == ca.issuing.certificate.subject_key_identifier.hex()  # type: ignore[union-attr]
        )
        assert len(crl.extensions) == 2
        assert serial(kept) not in reasons(stored)


async def test_nothing_is_revoked(ca: StatusCA) -> None:
    """The list itself is then absent, as RFC 5280 5.1.2.6 wants it."""
    crl = parsed(await publisher(ca).publish(ca.issuing))
    assert len(crl) == 0
    content = CRLContent(1, None, NOW, NOW, b"")
    assert b"\x30\x00" not in content.tbs_der(ca.issuing.certificate, b"")


async def test_a_delta_crl(ca: StatusCA) -> None:
    """It names its base in a critical extension and lists what changed since, releases included."""
    before, held, after = [await ca.issue() for _ in range(3)]
    await ca.revoke(before)
    await ca.revoke(held, Reason.certificateHold)
    ca.clock.advance(hours=1)
    publish = publisher(ca, WITH_DELTAS).publish
    full = await publish(ca.issuing)
    ca.clock.advance(minutes=10)
    await ca.revoke(held, Reason.removeFromCRL)
    await ca.revoke(after, Reason.cessationOfOperation)
    delta = await publish(ca.issuing, delta=True)
    assert reasons(full) == {
        serial(before): None,
        serial(held): x509.ReasonFlags.certificate_hold,
    }
    assert reasons(delta) == {
        serial(held): x509.ReasonFlags.remove_from_crl,
        serial(after): x509.ReasonFlags.cessation_of_operation,
    }
    indicator = parsed(delta).extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert (indicator.critical, indicator.value.crl_number) == (True, full.number)
    assert (delta.base_number, delta.number) == (full.number, full.number + 1)
    assert delta.next_update == delta.this_update + timedelta(minutes=120)
    ca.clock.advance(minutes=10)
    assert set(reasons(await publish(ca.issuing))) == {serial(before), serial(after)}


async def test_only_full_crls_name_the_delta_crl(ca: StatusCA) -> None:
    """FreshestCRL is in full CRLs where there are delta CRLs, and in no delta CRL."""
    full = await publisher(ca, WITH_DELTAS).publish(ca.issuing)
    delta = await publisher(ca, WITH_DELTAS).publish(ca.issuing, delta=True)
    plain = await publisher(ca, CRLSettings(delta_url=WITH_DELTAS.delta_url)).publish(ca.issuing)
    (point,) = extension(parsed(full), x509.FreshestCRL)
    assert point.full_name == [
        x509.UniformResourceIdentifier(f"http://crl.example.net/crl/{ca.issuing.id}-delta.crl")
    ]
    for crl in (delta, plain):
        with pytest.raises(x509.ExtensionNotFound):
            extension(parsed(crl), x509.FreshestCRL)


async def test_a_delta_crl_needs_a_full_one(ca: StatusCA) -> None:
    """Where there is none it is made first."""
    delta = await publisher(ca, WITH_DELTAS).publish(ca.issuing, delta=True)
    full = await ca.ledger.newest_crl(ca.issuing.id, delta=False)
    assert full is not None
    assert (delta.base_number, delta.number) == (full.number, full.number + 1)


async def test_numbers_only_grow(ca: StatusCA) -> None:
    """Full and delta CRLs share them, also after delta CRLs were switched off; and they start above
    whatever another product can have reached before the CA was moved here."""
    first = await publisher(ca, WITH_DELTAS).publish(ca.issuing)
    second = await publisher(ca, WITH_DELTAS).publish(ca.issuing, delta=True)
    third = await publisher(ca).publish(ca.issuing)
    assert first.number > 50 * 365 * 24
    assert [second.number, third.number] == [first.number + 1, first.number + 2]


async def test_a_restored_ledger_takes_no_number_again(ca: StatusCA, tmp_path: Path) -> None:
    """Of the CRLs that were published since its backup, it knows nothing; unless there was more than one in an hour."""
    await publisher(ca).publish(ca.issuing)
    await dump(ca.ledger, tmp_path / "dump", NOW)
    published = []
    for _ in range(30):
        ca.clock.advance(hours=1)
        published.append((await publisher(ca).publish(ca.issuing)).number)
    ca.clock.advance(hours=1)
    restored = await new_ledger(tmp_path / "restored.sqlite")
    await restored.open()
    await restore(tmp_path / "dump", restored)
    made = publisher(ca, ledger=restored)
    assert (await made.publish(ca.issuing)).number > max(published)
    await restored.close()


def test_no_number_has_more_than_20_octets() -> None:
    """RFC 5280 5.2.3; whatever the CA's CRLs of before had."""
    last = StoredCRL("ab", (1 << 159) - 2, None, NOW, NOW, b"")
    assert _Newest(last, None).next_number(NOW) == (1 << 159) - 1
    with pytest.raises(ServiceFailure, match="more than 20 octets"):
        _Newest(replace(last, number=(1 << 159) - 1), None).next_number(NOW)


async def test_an_expired_certificate_is_shown_once_more(ca: StatusCA) -> None:
    """It leaves after a scheduled CRL made after its expiry has shown it (RFC 5280 3.3)."""
    brief = await ca.issue(not_after=NOW + timedelta(hours=30))
    await ca.revoke(brief)
    publish = publisher(ca).publish
    shown = []
    for _ in range(4):
        shown.append(serial(brief) in reasons(await publish(ca.issuing)))
        ca.clock.advance(hours=24)
    assert shown == [True, True, True, False]  # after 0, 24, 48 and 72 hours


async def test_the_first_crl_shows_what_expired_before_it(ca: StatusCA) -> None:
    """A certificate that was revoked and has expired before there was any CRL is shown too."""
    brief = await ca.issue(not_after=NOW + timedelta(hours=1))
    await ca.revoke(brief)
    ca.clock.advance(days=30)
    assert set(reasons(await publisher(ca).publish(ca.issuing))) == {serial(brief)}


async def test_unconfirmed_certificates_are_listed(ca: StatusCA) -> None:
    """A look for revocations rejects what was not confirmed in time, and lists it."""
    lapsed = await ca.issue(status=CertificateStatus.issued)
    await ca.issue(status=CertificateStatus.reserved)
    made = publisher(ca)
    await made.refresh()
    assert reasons(await made.current(ca.issuing.id)) == {}
    ca.clock.advance(seconds=CONFIRM_WAIT.total_seconds() + 1)
    await made.refresh()
    assert reasons(await publisher(ca).current(ca.issuing.id)) == {
        serial(lapsed): x509.ReasonFlags.cessation_of_operation
    }


def test_entries_are_what_others_write() -> None:
    """Octet for octet those of `cryptography`, on both sides of 2050 and at all lengths of serial numbers."""
    revoked = [
        RevokedCertificate(number, moment, reason)
        for number in (1, 127, 128, 255, 1 << 64, (1 << 159) - 1)
        for moment in (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), NOW.replace(year=2050))
        for reason in (Reason.unspecified, Reason.keyCompromise, Reason.aACompromise)
    ]
    key = ec.generate_private_key(ec.SECP256R1())
    for item in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(item.serial_number)
            .revocation_date(item.revoked_at)
        )
        if item.reason is Reason.keyCompromise:
            entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False)
        elif item.reason is Reason.aACompromise:
            entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.aa_compromise), False)
        theirs = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.Name([]))
            .last_update(NOW)
            .next_update(NOW)
            .add_revoked_certificate(entry.build())
            .sign(key, hashes.SHA256())
        )
        assert encode_entries([item]) in theirs.tbs_certlist_bytes
    assert encode_entries(revoked) == encode_entries(reversed(revoked))


async def test_a_hundred_thousand_entries(ca: StatusCA) -> None:
    """A large CRL is put together in well under a second, and is one for others."""
    revoked = [
        RevokedCertificate(
            1 << 126 | number << 7, NOW + timedelta(seconds=number), Reason(number % 7)
        )
        for number in range(100_000)
    ]
    started = time.process_time()
    content = CRLContent(1, None, NOW, NOW + timedelta(days=2), encode_entries(revoked))
    tbs_der = content.tbs_der(ca.issuing.certificate, ca.issuing.signer.algorithm.der)
    assert time.process_time() - started < 2  # some 0.3 s, on a machine with nothing else to do

    class Ledger:
        """The few methods that making one CRL takes."""

        async def newest_crl(self, issuer_id: str, *, delta: bool) -> None:
            return None

        async def revoked(self, issuer_id: str, **_: Any) -> list[RevokedCertificate]:
            return revoked

        async def store_crl(self, crl: StoredCRL) -> bool:
            return True

    stored = await publisher(ca, ledger=Ledger()).publish(ca.issuing)
    crl = parsed(stored)
    assert len(crl) == 100_000
    assert crl.is_signature_valid(ca.operator.issuing.private_key.public_key())
    assert crl.public_bytes(Encoding.DER) == stored.der
    assert tbs_der[-200:-100] in stored.der


# --- When they are made ---------------------------------------------------------------------------------------


async def numbers_of(ca: StatusCA, made: CRLPublisher, **steps: float) -> tuple[int, int]:
    """Move the clock, have a look, and return the numbers of the newest full and delta CRL; 0 for none."""
    ca.clock.advance(**steps)
    await made.refresh()
    full = await ca.ledger.newest_crl(ca.issuing.id, delta=False)
    delta = await ca.ledger.newest_crl(ca.issuing.id, delta=True)
    return full.number if full else 0, delta.number if delta else 0


async def test_on_schedule(ca: StatusCA) -> None:
    """One at once, the next after `crl_hours`, long before nextUpdate; none in between."""
    made = publisher(ca)
    first, _ = await numbers_of(ca, made)
    assert await numbers_of(ca, made, hours=23, minutes=59) == (first, 0)
    assert await numbers_of(ca, made, minutes=1) == (first + 24, 0)
    assert await numbers_of(ca, made, hours=24) == (first + 48, 0)


async def test_after_a_revocation(ca: StatusCA) -> None:
    """The next look makes a CRL, one for all revocations since the last, and then no other."""
    one, two = await ca.issue(), await ca.issue()
    made = publisher(ca)
    first, _ = await numbers_of(ca, made)
    ca.clock.advance(minutes=5)
    await ca.revoke(one)
    await ca.revoke(two)
    assert await numbers_of(ca, made, seconds=1) == (first + 1, 0)
    assert set(reasons(await made.current(ca.issuing.id))) == {serial(one), serial(two)}
    for _ in range(20):
        assert await numbers_of(ca, made, seconds=5) == (first + 1, 0)


async def test_delta_crls(ca: StatusCA) -> None:
    """A revocation makes a delta CRL; so does time; and every full CRL is followed by one of its own."""
    one = await ca.issue()
    made = publisher(ca, WITH_DELTAS)
    first, _ = await numbers_of(ca, made)
    assert await numbers_of(ca, made, seconds=5) == (first, first + 1)
    ca.clock.advance(minutes=5)
    await ca.revoke(one)
    assert await numbers_of(ca, made, seconds=5) == (first, first + 2)
    assert set(reasons(await made.current(ca.issuing.id, delta=True))) == {serial(one)}
    assert await numbers_of(ca, made, seconds=5) == (first, first + 2)
    assert await numbers_of(ca, made, minutes=60) == (first, first + 3)
    assert await numbers_of(ca, made, hours=24) == (first + 25, first + 3)
    assert await numbers_of(ca, made, seconds=5) == (first + 25, first + 26)
    assert reasons(await made.current(ca.issuing.id, delta=True)) == {}


@pytest.mark.parametrize("settings", [WITHOUT_DELTAS, WITH_DELTAS], ids=["full", "delta"])
async def test_a_revocation_that_becomes_visible_late(ca: StatusCA, settings: CRLSettings) -> None:
    """It is dated before a CRL that cannot show it yet, and before another one; the next CRL shows both."""
    one, two, three = [await ca.issue() for _ in range(3)]
    made = publisher(ca, settings)
    await ca.revoke(one)
    ca.clock.advance(seconds=10)
    await made.refresh()
    ca.clock.advance(seconds=10)
    await made.refresh()
    await ca.revoke(two, at=NOW + timedelta(seconds=5))
    await made.refresh()
    await ca.revoke(three, at=NOW + timedelta(seconds=2))
    await made.refresh()
    newest = await ca.ledger.newest_crl(ca.issuing.id, delta=settings.delta_minutes > 0)
    assert {serial(two), serial(three)} <= set(reasons(newest))


async def test_processes_share_the_work(ca: StatusCA) -> None:
    """Two processes with one database publish each CRL once: together, and one after the other."""
    one = await ca.issue()
    made = [publisher(ca), publisher(ca)]
    await asyncio.gather(*(item.refresh() for item in made))
    first, _ = await numbers_of(ca, made[0])
    assert first == int(NOW.timestamp()) // 3600
    ca.clock.advance(minutes=5)
    await ca.revoke(one)
    ca.clock.advance(seconds=1)
    await asyncio.gather(*(item.refresh() for item in made))
    for item in made:
        assert await numbers_of(ca, item, seconds=5) == (first + 1, 0)
        assert set(reasons(await item.current(ca.issuing.id))) == {serial(one)}
    assert await numbers_of(ca, made[0], hours=24) == (first + 24, 0)
    assert await numbers_of(ca, made[1], seconds=5) == (first + 24, 0)


async def test_the_rival_s_crl_is_taken(ca: StatusCA) -> None:
    """Who finds the number taken returns what the other process stored under it."""
    winner, loser = publisher(ca), publisher(ca)
    crls = await asyncio.gather(winner.publish(ca.issuing), loser.publish(ca.issuing))
    assert crls[0] == crls[1]


async def test_every_issuing_ca_has_its_own(ca: StatusCA) -> None:
    """A retired one signs for what it issued; one that has expired signs no more."""
    retired = issuing_ca(ca.operator.root.issue_ca("CN=Issuing CA 0,O=Example Operator"))
    expired = issuing_ca(ca.operator.root.issue_ca("CN=Issuing CA -1", not_after=NOW))
    old, new = await ca.issue(by=retired), await ca.issue()
    await ca.revoke(old)
    await ca.revoke(new)
    ca.clock.advance(seconds=1)
    made = CRLPublisher([ca.issuing, retired, expired], ca.ledger, ca.clock, WITHOUT_DELTAS)
    await made.refresh()
    for issuer, credential in ((ca.issuing, new), (retired, old)):
        crl = await made.current(issuer.id)
        assert set(reasons(crl)) == {serial(credential)}
        assert parsed(crl).is_signature_valid(issuer.authority.private_key.public_key())
    assert await made.current(expired.id) is None
    assert await made.current("00") is None


class BrokenSigner:
    """A key in an HSM that went away."""

    def __init__(self, algorithm: SignatureAlgorithm) -> None:
        self.algorithm = algorithm

    async def sign(self, octets: bytes) -> bytes:
        raise ServiceFailure("the HSM is away")


async def test_one_key_that_fails_does_not_stop_the_others(ca: StatusCA) -> None:
    """Which one it was is in the log."""
    authority = ca.operator.root.issue_ca("CN=Issuing CA 0,O=Example Operator")
    certificate = Certificate.from_der(authority.der)
    broken = IssuingCA(authority, certificate, BrokenSigner(ca.issuing.signer.algorithm))
    made = CRLPublisher([broken, ca.issuing], ca.ledger, ca.clock, WITHOUT_DELTAS)
    with structlog.testing.capture_logs() as lines:
        await made.refresh()
    assert [(line["log_level"], line["issuer_id"]) for line in lines] == [
        ("error", broken.id),
        ("info", ca.issuing.id),
    ]
    assert await made.current(ca.issuing.id) is not None


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(1000):
        if happened():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


async def test_in_the_background(ca: StatusCA) -> None:
    """The loop outlives a ledger that does not answer, logs that and every CRL, and ends when cancelled."""
    ledger = Failing(ca.ledger)
    ledger.fails = True
    made = publisher(ca, CRLSettings(check_seconds=0.01), ledger)
    with structlog.testing.capture_logs() as lines:
        task = asyncio.create_task(made.run())
        await until(lambda: bool(lines))
        ledger.fails = False
        await until(lambda: len([line for line in lines if line["outcome"] == "made"]) == 1)
        await ca.revoke(await ca.issue())
        await until(lambda: len([line for line in lines if line["outcome"] == "made"]) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    outcomes = [line["outcome"] for line in lines]
    assert set(outcomes[:-2]) == {"delayed"}
    assert outcomes[-2:] == ["made", "made"]
    assert lines[-1]["number"] == lines[-2]["number"] + 1


async def test_a_bug_does_not_end_the_loop(ca: StatusCA) -> None:
    """What nobody foresaw is logged with its traceback, and the next look happens."""

    class Broken(Failing):
        async def sweep(self, now: datetime) -> int:
            self.calls.append("sweep")
            raise KeyError("oops")

    ledger = Broken(ca.ledger)
    with structlog.testing.capture_logs() as lines:
        task = asyncio.create_task(publisher(ca, CRLSettings(check_seconds=0.01), ledger).run())
        await until(lambda: len(ledger.calls) > 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert lines[0]["log_level"] == "error"
    assert lines[0]["exc_info"]


async def test_a_look_costs_little(ca: StatusCA) -> None:
    """While nothing is revoked, no CRL is read or made up to be compared."""
    ledger = Failing(ca.ledger)
    made = publisher(ca, ledger=ledger)
    await made.refresh()
    ledger.calls.clear()
    ca.clock.advance(seconds=5)
    await made.refresh()
    assert ledger.calls == ["sweep", "last_revocation_at"]


# --- What is served -------------------------------------------------------------------------------------------


async def test_what_is_served_is_remembered(ca: StatusCA) -> None:
    """For a moment, so that requests do not read the ledger each; and while the ledger does not answer."""
    ledger = Failing(ca.ledger)
    made = publisher(ca, CRLSettings(check_seconds=0.05), ledger)
    ledger.fails = True
    with pytest.raises(StoreUnavailable):
        await made.current(ca.issuing.id)
    ledger.fails = False
    crl = await made.publish(ca.issuing)
    ledger.calls.clear()
    served = await asyncio.gather(*(made.current(ca.issuing.id) for _ in range(10)))
    assert served == [crl] * 10
    assert ledger.calls == ["newest_crl"]
    ledger.fails = True
    await asyncio.sleep(0.06)
    assert await made.current(ca.issuing.id) == crl
    ledger.fails = False
    newer = await publisher(ca).publish(ca.issuing)
    await asyncio.sleep(0.06)
    assert await made.current(ca.issuing.id) == newer


def test_an_issuing_ca_that_may_not_sign_crls(tmp_path: Path) -> None:
    """It is refused at the start, in words for the operator."""
    root = pki.make_root("CN=Root")
    unable = root.issue_ca("CN=Unable", key_usage=("keyCertSign",))
    unnamed = root.issue_ca("CN=Unnamed", subject_key_identifier=False)
    with pytest.raises(ConfigError) as caught:
        CRLPublisher(
            [issuing_ca(unable), issuing_ca(unnamed)],
            open_ledger(tmp_path / "unused"),
            Clock(NOW),
            WITHOUT_DELTAS,
        )
    assert [problem.what.rpartition("CN=")[2] for problem in caught.value.problems] == [
        "Unable has a keyUsage without cRLSign",
        "Unnamed has no SubjectKeyIdentifier",
    ]


@pytest.mark.parametrize("settings", [WITHOUT_DELTAS, WITH_DELTAS], ids=["full", "delta"])
async def test_a_clock_that_is_set_back(ca: StatusCA, settings: CRLSettings) -> None:
    """A CRL from the future is replaced at once, and what is revoked afterwards is shown."""
    one = await ca.issue()
    made = publisher(ca, settings)
    ca.clock.advance(days=10)
    first, _ = await numbers_of(ca, made)
    await numbers_of(ca, made, seconds=5)
    ca.clock.advance(days=-10)
    await ca.revoke(one)
    for _ in range(3):
        await numbers_of(ca, made, seconds=5)
    full = await ca.ledger.newest_crl(ca.issuing.id, delta=False)
    assert full is not None
    assert full.number > first
    assert full.this_update <= ca.clock()
    assert set(reasons(full)) == {serial(one)}


async def test_no_crl_by_a_clock_that_was_set(ca: StatusCA) -> None:
    """A CRL of tomorrow would be believed until then; nothing is swept either, until the clock is believed again."""
    believed = [False]
    made = CRLPublisher(
        [ca.issuing], ca.ledger, ca.clock, WITHOUT_DELTAS, steady=lambda: believed[0]
    )
    await made.refresh()
    assert await made.current(ca.issuing.id) is None
    believed[0] = True
    await made.refresh()
    assert await made.current(ca.issuing.id) is not None
