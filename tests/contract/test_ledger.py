"""What the ledger promises, on SQLite and on PostgreSQL: what is stored when, what survives, who gets what."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from ra_gateway.ca.ledger.batches import MAX_BATCH
from ra_gateway.ca.ledger.database import write
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from ra_gateway.ca.ledger.listing import newest
from ra_gateway.ca.ledger.reserving import SerialTaken
from ra_gateway.ca.records import (
    CertificateStatus,
    EntityStatus,
    Intent,
    IssuedCertificate,
    Operation,
    Reason,
    Reenroll,
    Revocation,
    RevokedCertificate,
    StoredCRL,
)
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.errors import (
    CMPError,
    ConfigError,
    NotAuthorized,
    PKIFailureInfo,
    RequestRefused,
    StoreUnavailable,
)
from tests.support.ledgers import ISSUER_ID, NOW, certificate, intent, issue, operation, subject

Node = Callable[[], Ledger]
"""Opens the one database there is as one more CA process would."""

LATE = NOW + timedelta(seconds=301)
S = CertificateStatus


@pytest.fixture
async def node(where: LedgerLocation) -> AsyncIterator[Callable[[], Ledger]]:
    opened: list[Ledger] = []

    def make() -> Ledger:
        opened.append(open_ledger(where))
        return opened[-1]

    await make().migrate()
    yield make
    for ledger in opened:
        await ledger.close()


@pytest.fixture
async def ledger(node: Node) -> Ledger:
    ledger = node()
    await ledger.open()
    return ledger


@pytest.fixture
async def other(node: Node) -> Ledger:
    ledger = node()
    await ledger.open()
    return ledger


async def found(ledger: Ledger, item: Operation) -> Operation | None:
    return await ledger.find_operation(item.requester, item.transaction_id, NOW)


async def status(ledger: Ledger, item: Operation, *, late: bool = False) -> IssuedCertificate:
    issued = await ledger.certificate(item.serial_number, LATE if late else NOW)
    assert issued is not None
    return issued


# --- issuing --------------------------------------------------------------------------------------------------


async def test_an_intent_then_a_certificate_then_a_confirmation(ledger: Ledger) -> None:
    """reserved, issued, confirmed; what is stored is what is found, field for field."""
    item = operation(signer_der=b"signer", old_serial_number=77, body_type=7, cert_req_id=1 << 70)
    wanted = replace(intent(), vendor="acme", identity="SN1")
    assert await ledger.reserve(item, wanted, NOW) is None
    assert await ledger.counts() == {S.reserved: 1}
    assert await ledger.certificate(item.serial_number, NOW) is None
    assert await found(ledger, item) == replace(item, answer=b"")
    der = certificate(item.serial_number).der
    stored = await ledger.store(item, certificate(item.serial_number), NOW)
    assert stored == replace(item, certificate_der=der)
    assert await found(ledger, item) == stored
    assert await status(ledger, item) == IssuedCertificate(
        serial_number=item.serial_number,
        status=S.issued,
        der=der,
        issuer_id=ISSUER_ID,
        entity="CN=enb1,O=Example Operator",
        profile="ne_ipsec",
        requester="ra1",
        origin="ra1",
        vendor="acme",
        identity="SN1",
    )
    confirmed = await ledger.confirm(stored, accepted=True, digest=b"c", answer=b"ok", now=NOW)
    assert confirmed == replace(stored, confirm_digest=b"c", confirm_answer=b"ok")
    assert await found(ledger, item) == confirmed
    assert await ledger.counts() == {S.confirmed: 1}


async def test_what_needs_no_confirmation_is_confirmed_at_once(ledger: Ledger) -> None:
    """implicitConfirm."""
    item = await issue(ledger, changes={"confirm_by": None})
    assert (await status(ledger, item)).status == S.confirmed


async def test_the_first_confirmation_stays(ledger: Ledger) -> None:
    """A later one gets what was decided; also when both come at once."""
    stored = await issue(ledger, confirmed=False)
    first, second = await asyncio.gather(
        ledger.confirm(stored, accepted=False, digest=b"1", answer=b"one", now=NOW),
        ledger.confirm(stored, accepted=True, digest=b"2", answer=b"two", now=NOW),
    )
    assert first == second == await found(ledger, stored)
    assert await ledger.counts() == {S.rejected: 1}


async def test_a_confirmation_that_comes_too_late_changes_nothing(ledger: Ledger) -> None:
    """The certificate stays as good as rejected."""
    stored = await issue(ledger, confirmed=False)
    late = await ledger.confirm(stored, accepted=True, digest=b"1", answer=b"one", now=LATE)
    assert late == stored
    assert (await status(ledger, stored, late=True)).status == S.rejected


@pytest.mark.requirement(153)
async def test_a_serial_number_is_reserved_once(ledger: Ledger, other: Ledger) -> None:
    """Also for another transaction, by another process, and in one batch."""
    item = operation()
    assert await ledger.reserve(item, intent(), NOW) is None
    with pytest.raises(SerialTaken):
        await other.reserve(replace(item, transaction_id=b"another"), intent(), NOW)
    twins = [operation(serial_number=12345) for _ in range(2)]
    results = await asyncio.gather(
        *(ledger.reserve(twin, intent(), NOW) for twin in twins), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), SerialTaken]


async def test_a_claim_holds_against_other_requests_until_it_expires(ledger: Ledger) -> None:
    """Another digest gets the first operation back; after expiry the transactionID is free."""
    item = operation()
    await ledger.reserve(item, intent(), NOW)
    another = replace(item, serial_number=99, request_digest=b"other")
    assert await ledger.reserve(another, intent(), NOW) == replace(item, answer=b"")
    assert await ledger.counts() == {S.reserved: 1}
    assert await ledger.reserve(another, intent(), NOW + timedelta(seconds=900)) is None


async def test_a_repeated_request_finds_the_answer(ledger: Ledger) -> None:
    """It gets the stored operation, and no serial number is spent."""
    item = operation()
    await ledger.reserve(item, intent(), NOW)
    stored = await ledger.store(item, certificate(item.serial_number), NOW)
    again = replace(item, serial_number=99)
    assert await ledger.reserve(again, intent(), NOW) == stored
    assert await ledger.counts() == {S.issued: 1}


async def test_the_first_to_store_wins(ledger: Ledger, other: Ledger) -> None:
    """Two processes with one request: the second finds the first one's answer, its own is not stored."""
    one = operation()
    two = replace(one, serial_number=99, answer=b"other")
    assert await ledger.reserve(one, intent(), NOW) is None
    assert await other.reserve(two, intent(), NOW) is None
    won = await other.store(two, certificate(99), NOW)
    lost = await ledger.store(one, certificate(one.serial_number), NOW)
    assert won == lost
    assert (won.answer, won.serial_number) == (b"other", 99)
    assert await ledger.counts() == {S.issued: 1, S.reserved: 1}


async def test_two_that_store_in_one_batch_get_one_answer(ledger: Ledger) -> None:
    """As if they came one after the other."""
    one = operation()
    two = replace(one, serial_number=99, answer=b"other")
    await ledger.reserve(one, intent(), NOW)
    await ledger.reserve(two, intent(), NOW)
    won, lost = await asyncio.gather(
        ledger.store(one, certificate(one.serial_number), NOW),
        ledger.store(two, certificate(99), NOW),
    )
    assert won == lost
    assert won.answer == b"answer"


async def test_what_was_not_reserved_is_not_stored(ledger: Ledger) -> None:
    """Nor is what was stored before, or what has no claim."""
    item = operation()
    with pytest.raises(StoreUnavailable, match="expired"):
        await ledger.store(item, certificate(item.serial_number), NOW)
    await ledger.reserve(item, intent(), NOW)
    with pytest.raises(CMPError, match="was not reserved"):
        await ledger.store(replace(item, serial_number=98), certificate(98), NOW)
    assert await ledger.counts() == {S.reserved: 1}


@pytest.mark.parametrize("transaction_id", [b"", b"\x00" * 3, b"x" * 20_000])
async def test_a_transaction_id_may_have_any_length(ledger: Ledger, transaction_id: bytes) -> None:
    """An index of PostgreSQL could not hold it."""
    item = await issue(ledger, changes={"transaction_id": transaction_id})
    assert await found(ledger, item) == item


async def test_requesters_have_transaction_ids_of_their_own(ledger: Ledger) -> None:
    """Also where names and identifiers could be read in two ways."""
    one = await issue(ledger, changes={"requester": "ra", "transaction_id": b"1x"})
    two = await issue(ledger, changes={"requester": "ra1", "transaction_id": b"x"})
    assert await found(ledger, one) == one
    assert await found(ledger, two) == two


# --- end entities ---------------------------------------------------------------------------------------------


async def test_an_end_entity_is_made_with_its_first_certificate(ledger: Ledger) -> None:
    """Its name is its subject; the same subject, spelled otherwise, is the same entity."""
    await issue(ledger)
    spelled = from_rfc4514("CN=ENB1,O=example  operator")
    await issue(ledger, subject_der=spelled)
    (entity,) = await ledger.registry.entities()
    assert (entity.name, entity.subject) == ("CN=enb1,O=Example Operator",) * 2
    assert (entity.created_by, entity.created_at, entity.profile) == ("ra1", NOW, "ne_ipsec")
    assert len(await newest(ledger, NOW, limit=10, entity=entity.name)) == 2


async def test_one_subject_twice_in_a_batch_is_one_entity(ledger: Ledger) -> None:
    """And what is refused makes none."""
    await issue(ledger, "first", key="shared")
    results = await asyncio.gather(
        ledger.reserve(operation(), intent(), NOW),
        ledger.reserve(operation(), intent(), NOW),
        ledger.reserve(operation(), intent("thief", "shared"), NOW),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), type(None), RequestRefused]
    assert [entity.name for entity in await ledger.registry.entities()] == [
        "CN=enb1,O=Example Operator",
        "CN=first,O=Example Operator",
    ]


async def test_a_long_subject_gets_a_name_that_is_cut(ledger: Ledger) -> None:
    """Two that differ at their end only are two entities."""
    for number in (1, 2):
        subject_der = from_rfc4514(f"OU={'y' * 3000}{number},O=Example Operator")
        await issue(ledger, key=str(number), subject_der=subject_der)
    names = [entity.name for entity in await ledger.registry.entities()]
    assert len(set(names)) == 2
    assert all(len(name) <= 512 for name in names)


@pytest.mark.requirement(58)
async def test_a_blocked_end_entity_gets_nothing(ledger: Ledger) -> None:
    """Neither a first certificate nor a renewal, by subject or by name."""
    await issue(ledger)
    (entity,) = await ledger.registry.entities()
    await ledger.registry.set_entity_status(entity.name, EntityStatus.blocked, "operator", NOW)
    for wanted in (intent(), intent(enrolls=False), intent(entity=entity.name)):
        with pytest.raises(NotAuthorized, match="blocked"):
            await ledger.reserve(operation(), wanted, NOW)
    await ledger.registry.set_entity_status(entity.name, EntityStatus.active, "operator", NOW)
    assert await ledger.reserve(operation(), intent(), NOW) is None


async def test_a_blocked_end_entity_takes_nothing(ledger: Ledger) -> None:
    """What was on its way when it was blocked is not confirmed; a rejection is heard."""
    taken, rejected = await issue(ledger, confirmed=False), await issue(ledger, confirmed=False)
    (entity,) = await ledger.registry.entities()
    await ledger.registry.set_entity_status(entity.name, EntityStatus.blocked, "operator", NOW)
    with pytest.raises(NotAuthorized, match="blocked"):
        await ledger.confirm(taken, accepted=True, digest=b"1", answer=b"one", now=NOW)
    assert (await status(ledger, taken)).status is S.issued
    await ledger.confirm(rejected, accepted=False, digest=b"2", answer=b"two", now=NOW)
    assert (await status(ledger, rejected)).status is S.rejected
    await ledger.registry.set_entity_status(entity.name, EntityStatus.active, "operator", NOW)
    await ledger.confirm(taken, accepted=True, digest=b"1", answer=b"one", now=NOW)
    assert (await status(ledger, taken)).status is S.confirmed


async def test_a_named_end_entity_has_to_exist(ledger: Ledger) -> None:
    """Only an RA's requests make entities; the CA's own signers have none."""
    with pytest.raises(NotAuthorized, match="no end entity"):
        await ledger.reserve(operation(), intent(entity="nobody"), NOW)
    assert await ledger.reserve(operation(), intent(entity=""), NOW) is None
    assert await ledger.registry.entities() == []


async def reenrolls(ledger: Ledger, policy: Reenroll, **changes: Any) -> bool:
    try:
        return await ledger.reserve(operation(), intent(reenroll=policy, **changes), NOW) is None
    except NotAuthorized:
        return False


async def test_only_a_valid_confirmed_certificate_counts_against_enrolling_again(
    ledger: Ledger,
) -> None:
    """None, an unconfirmed, a superseded, a revoked or an expired one does not; a renewal is not asked."""
    assert await reenrolls(ledger, Reenroll.deny)
    await issue(ledger, until=NOW - timedelta(seconds=1))
    await issue(ledger, confirmed=False)
    assert await reenrolls(ledger, Reenroll.deny)
    held = await issue(ledger)
    assert not await reenrolls(ledger, Reenroll.deny)
    assert await reenrolls(ledger, Reenroll.deny, enrolls=False)
    assert await reenrolls(ledger, Reenroll.allow)
    await ledger.revoke(Revocation(held.serial_number, Reason.unspecified, "operator"), NOW)
    assert await reenrolls(ledger, Reenroll.deny)


async def test_a_window_lets_an_end_entity_enrol_again(ledger: Ledger) -> None:
    """Until its end."""
    await issue(ledger)
    (entity,) = await ledger.registry.entities()
    assert not await reenrolls(ledger, Reenroll.window)
    await ledger.registry.open_window(entity.name, NOW, "operator", NOW)
    assert await reenrolls(ledger, Reenroll.window)
    await ledger.registry.open_window(
        entity.name, NOW - timedelta(seconds=1), "operator", NOW - timedelta(days=1)
    )
    assert not await reenrolls(ledger, Reenroll.window)


# --- keys -----------------------------------------------------------------------------------------------------


async def refused_key(ledger: Ledger, item: Operation, wanted: Intent) -> bool:
    try:
        return await ledger.reserve(item, wanted, NOW) is not None
    except RequestRefused as error:
        return (error.fail_info, error.rule) == (PKIFailureInfo.duplicateCertReq, "R62")


@pytest.mark.requirement(62)
async def test_a_key_belongs_to_one_end_entity(ledger: Ledger) -> None:
    """While its certificate lives; the entity itself may have it again."""
    held = await issue(ledger, "enb1", key="k")
    assert await refused_key(ledger, operation(), intent("enb2", "k"))
    assert not await refused_key(ledger, operation(), intent("enb2", "k", unique_key=False))
    assert not await refused_key(ledger, operation(), intent("enb1", "k"))
    for reason, lives in ((Reason.certificateHold, True), (Reason.unspecified, False)):
        # One on hold may come back.
        await ledger.revoke(Revocation(held.serial_number, reason, "operator"), NOW)
        assert await refused_key(ledger, operation(), intent("enb2", "k")) is lives


@pytest.mark.requirement(62)
async def test_a_key_belongs_to_one_end_entity_in_a_batch(ledger: Ledger) -> None:
    """The first gets it."""
    wanted = [intent(name, "k") for name in ("enb1", "enb2", "enb1")]
    refused = await asyncio.gather(*(refused_key(ledger, operation(), item) for item in wanted))
    assert refused == [False, True, False]


@pytest.mark.requirement(62)
async def test_a_key_belongs_to_one_end_entity_whoever_asked_first(
    ledger: Ledger, other: Ledger
) -> None:
    """Of two that were reserved at the same time, the first to store gets it."""
    one, two = operation(), operation()
    assert not await refused_key(ledger, one, intent("enb1", "k"))
    assert not await refused_key(other, two, intent("enb2", "k"))
    await ledger.store(one, certificate(one.serial_number), NOW)
    with pytest.raises(RequestRefused, match="another end entity"):
        await other.store(two, certificate(two.serial_number), NOW)
    assert await ledger.counts() == {S.issued: 1, S.reserved: 1}


# --- renewing -------------------------------------------------------------------------------------------------


EXPLICIT_AND_IMPLICIT = pytest.mark.parametrize("implicit", [False, True])


async def renewing(ledger: Ledger, implicit: bool) -> tuple[Operation, dict[str, Any]]:
    """Issue a certificate; return its operation, and what distinguishes the one that renews it."""
    old = await issue(ledger)
    return old, {"old_serial_number": old.serial_number} | (
        {"confirm_by": None} if implicit else {}
    )


@EXPLICIT_AND_IMPLICIT
async def test_a_renewal_supersedes_when_it_is_accepted(ledger: Ledger, implicit: bool) -> None:
    """Not before; the old certificate stays valid until it expires."""
    old, changes = await renewing(ledger, implicit)
    new = await issue(ledger, key="new", confirmed=False, changes=changes)
    if not implicit:
        assert (await status(ledger, old)).status == S.confirmed
        await ledger.confirm(new, accepted=True, digest=b"c", answer=b"ok", now=NOW)
    assert (await status(ledger, old)).status == S.superseded
    assert (await status(ledger, new)).status == S.confirmed
    newest = await ledger.newest_certificate(subject("enb1"), NOW)
    assert newest is not None
    assert newest.serial_number == new.serial_number


@EXPLICIT_AND_IMPLICIT
async def test_a_renewal_may_revoke_what_it_renews(ledger: Ledger, implicit: bool) -> None:
    """With the reason superseded; the audit trail says so."""
    old, changes = await renewing(ledger, implicit)
    await issue(ledger, key="new", changes=changes, revoke_superseded=True)
    gone = await status(ledger, old)
    assert (gone.status, gone.reason, gone.revoked_at) == (S.revoked, Reason.superseded, NOW)
    last = (await ledger.audit_entries())[-1]
    assert (last.action, last.subject) == ("revoke", f"{old.serial_number:x}")


async def test_a_rejected_renewal_leaves_the_old_certificate(ledger: Ledger) -> None:
    """It is confirmed as before."""
    old = await issue(ledger)
    changes = {"old_serial_number": old.serial_number}
    new = await issue(ledger, key="new", confirmed=False, changes=changes)
    await ledger.confirm(new, accepted=False, digest=b"c", answer=b"ok", now=NOW)
    assert (await status(ledger, old)).status == S.confirmed
    assert (await status(ledger, new)).status == S.rejected


@pytest.mark.parametrize("reason", [Reason.keyCompromise, Reason.certificateHold])
async def test_a_renewal_of_what_was_revoked_meanwhile_is_not_accepted(
    ledger: Ledger, reason: Reason
) -> None:
    """Whoever asked for it may have had the key that it was revoked for; a renewal beside it is another matter."""
    old = await issue(ledger)
    changes = {"old_serial_number": old.serial_number}
    first, second = [await issue(ledger, confirmed=False, changes=changes) for _ in range(2)]
    await ledger.confirm(
        first, accepted=True, digest=b"1", answer=b"one", now=NOW, revoke_superseded=True
    )
    await ledger.confirm(second, accepted=True, digest=b"2", answer=b"two", now=NOW)
    third = await issue(
        ledger, confirmed=False, changes={"old_serial_number": second.serial_number}
    )
    await ledger.revoke(Revocation(second.serial_number, reason, "operator"), NOW)
    with pytest.raises(RequestRefused) as refused:
        await ledger.confirm(third, accepted=True, digest=b"3", answer=b"three", now=NOW)
    assert (refused.value.fail_info, refused.value.rule) == (PKIFailureInfo.certRevoked, "R69")
    assert (await status(ledger, third)).status is S.issued


async def test_a_renewal_revives_nothing(ledger: Ledger) -> None:
    """A certificate that was revoked or not confirmed in time stays so."""
    lapsed = await issue(ledger, confirmed=False)
    await issue(
        ledger,
        now=LATE,
        changes={"old_serial_number": lapsed.serial_number, "confirm_by": None},
    )
    assert (await status(ledger, lapsed, late=True)).status == S.rejected


# --- looking up -----------------------------------------------------------------------------------------------


async def test_a_certificate_is_found_by_serial_number_and_what_was_signed(ledger: Ledger) -> None:
    """Another serial number or another TBSCertificate finds nothing; another spelling of the same does."""
    item = await issue(ledger)
    certificate = load_certificate((await status(ledger, item)).der)
    assert await ledger.record_of(certificate, NOW) is not None
    respelt = replace(certificate, der=certificate.der + b"x", signature=b"another")
    assert await ledger.record_of(respelt, NOW) is not None
    other = replace(certificate, tbs_der=certificate.tbs_der + b"x")
    assert await ledger.record_of(other, NOW) is None
    assert await ledger.certificate(item.serial_number, NOW) is not None
    assert await ledger.certificate(item.serial_number + 1, NOW) is None


async def test_what_is_revoked_among_certificates_of_one_serial_number(ledger: Ledger) -> None:
    """Another issuer's certificate of the same serial number does not hide ours, wherever it stands."""
    item = await issue(ledger)
    await ledger.revoke(Revocation(item.serial_number, Reason.keyCompromise, "operator"), NOW)
    ours = load_certificate((await status(ledger, item)).der)
    other = certificate(item.serial_number, NOW + timedelta(days=99))
    assert other != ours
    for asked in ([ours, other], [other, ours], [ours]):
        assert await ledger.revoked_among(asked, NOW) == {ours}
    assert await ledger.revoked_among([other], NOW) == frozenset()


async def test_the_newest_certificate_is_one_that_lives(ledger: Ledger) -> None:
    """Expired, revoked and unconfirmed ones are passed over."""
    first = await issue(ledger)
    await issue(ledger, confirmed=False)
    second = await issue(ledger, until=NOW + timedelta(days=1))
    third = await issue(ledger)
    await ledger.revoke(Revocation(third.serial_number, Reason.unspecified, "operator"), NOW)
    newest = await ledger.newest_certificate(subject("ENB1"), LATE)
    assert newest is not None
    assert newest.serial_number == second.serial_number
    newest = await ledger.newest_certificate(subject("enb1"), NOW + timedelta(days=2))
    assert newest is not None
    assert newest.serial_number == first.serial_number
    assert await ledger.newest_certificate(subject("enb2"), NOW) is None


async def test_what_was_written_is_read_at_once(ledger: Ledger, other: Ledger) -> None:
    """By the same caller and by every other one."""
    for number in range(20):
        item = operation()
        await ledger.reserve(item, intent(f"enb{number}"), NOW)
        assert await found(ledger, item) is not None
        assert await found(other, item) is not None


# --- revoking -------------------------------------------------------------------------------------------------


def revocation(item: Operation, reason: Reason = Reason.keyCompromise) -> Revocation:
    return Revocation(item.serial_number, reason, "ra1", ISSUER_ID)


@pytest.mark.requirement(129)
async def test_a_revocation_is_stored_with_its_answer(ledger: Ledger) -> None:
    """The same request again gets the answer; another one is refused."""
    item = await issue(ledger)
    asked = operation(body_type=11, confirm_by=None, serial_number=0, answer=b"rp")
    assert await ledger.revoke(revocation(item), NOW, operation=asked) == asked
    assert await ledger.revoke(revocation(item), NOW, operation=asked) == asked
    assert await found(ledger, asked) == asked
    gone = await status(ledger, item)
    assert (gone.status, gone.reason, gone.revoked_at) == (S.revoked, Reason.keyCompromise, NOW)
    with pytest.raises(RequestRefused) as refused:
        await ledger.revoke(revocation(item), NOW, operation=operation())
    assert (refused.value.fail_info, refused.value.rule) == (PKIFailureInfo.certRevoked, "R129")


async def test_one_revocation_twice_at_once_is_done_once(ledger: Ledger) -> None:
    """The second is refused; a line of the audit trail for one."""
    item = await issue(ledger)
    results = await asyncio.gather(
        *(ledger.revoke(revocation(item), NOW, operation=operation()) for _ in range(2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Operation, RequestRefused]
    actions = Counter(line.action for line in await ledger.audit_entries())
    assert actions == {"entity.add": 1, "issue": 1, "confirm": 1, "revoke": 1}


@pytest.mark.requirement(131)
async def test_what_is_not_there_cannot_be_revoked(ledger: Ledger) -> None:
    """Unknown, reserved only, or of another issuer: badCertId."""
    item = await issue(ledger)
    reserved = operation()
    await ledger.reserve(reserved, intent(), NOW)
    for wanted in (
        Revocation(4711, Reason.unspecified, "ra1"),
        Revocation(reserved.serial_number, Reason.unspecified, "ra1"),
        Revocation(item.serial_number, Reason.unspecified, "ra1", "cd" * 20),
    ):
        with pytest.raises(RequestRefused) as refused:
            await ledger.revoke(wanted, NOW)
        assert (refused.value.fail_info, refused.value.rule) == (PKIFailureInfo.badCertId, "R131")


async def test_what_is_rejected_cannot_be_revoked(ledger: Ledger) -> None:
    """Whether the device said so or was silent."""
    lapsed = await issue(ledger, confirmed=False)
    rejected = await issue(ledger, confirmed=False)
    await ledger.confirm(rejected, accepted=False, digest=b"1", answer=b"one", now=NOW)
    for item in (lapsed, rejected):
        with pytest.raises(RequestRefused, match="rejected") as refused:
            await ledger.revoke(revocation(item), LATE)
        assert refused.value.fail_info == PKIFailureInfo.certRevoked


async def test_a_certificate_on_hold_is_released_to_what_it_was(ledger: Ledger) -> None:
    """Confirmed, superseded, or waiting for its confirmation; only what is on hold is released."""
    confirmed = await issue(ledger)
    superseded = await issue(ledger)
    await issue(ledger, changes={"old_serial_number": superseded.serial_number})
    issued = await issue(ledger, confirmed=False)
    for item, before in ((confirmed, S.confirmed), (superseded, S.superseded), (issued, S.issued)):
        assert (await status(ledger, item)).status == before
        with pytest.raises(RequestRefused) as refused:
            await ledger.revoke(revocation(item, Reason.removeFromCRL), NOW)
        assert refused.value.fail_info == PKIFailureInfo.badRequest
        await ledger.revoke(revocation(item, Reason.certificateHold), NOW)
        held = await status(ledger, item)
        assert (held.status, held.reason) == (S.revoked, Reason.certificateHold)
        with pytest.raises(RequestRefused, match="on hold already"):
            await ledger.revoke(revocation(item, Reason.certificateHold), NOW)
        await ledger.revoke(revocation(item, Reason.removeFromCRL), NOW)
        free = await status(ledger, item)
        assert (free.status, free.reason, free.revoked_at) == (before, None, None)
    await ledger.revoke(revocation(confirmed, Reason.certificateHold), NOW)
    await ledger.revoke(revocation(confirmed, Reason.keyCompromise), NOW)
    with pytest.raises(RequestRefused):
        await ledger.revoke(revocation(confirmed, Reason.removeFromCRL), NOW)


async def test_the_sweep_rejects_what_was_not_confirmed(ledger: Ledger) -> None:
    """Before it comes by they read so already; operations that have expired are forgotten."""
    lapsed = [await issue(ledger, f"enb{n}", confirmed=False) for n in range(3)]
    kept = await issue(ledger, "kept")
    assert await ledger.sweep(NOW) == 0
    before = await status(ledger, lapsed[0], late=True)
    assert (before.status, before.reason) == (S.rejected, Reason.cessationOfOperation)
    assert await ledger.sweep(LATE) == 3
    after = await status(ledger, lapsed[0])
    assert (after.status, after.reason, after.revoked_at) == (
        S.rejected,
        Reason.cessationOfOperation,
        LATE,
    )
    assert await found(ledger, kept) == kept
    assert await ledger.sweep(NOW + timedelta(seconds=900)) == 0
    assert await found(ledger, kept) is None
    assert await ledger.counts() == {S.rejected: 3, S.confirmed: 1}


# --- CRLs -----------------------------------------------------------------------------------------------------


async def test_a_crl_shows_what_is_revoked_and_has_not_expired(ledger: Ledger) -> None:
    """A delta CRL shows what changed; what was released comes as removeFromCRL."""
    soon = NOW + timedelta(days=1)
    items = [await issue(ledger, f"enb{n}") for n in range(3)]
    short = await issue(ledger, "short", until=soon)
    await issue(ledger, "good")
    assert await ledger.last_revocation_at(ISSUER_ID) is None
    for item in (*items, short):
        await ledger.revoke(revocation(item, Reason.certificateHold), NOW)
    later = NOW + timedelta(hours=1)
    await ledger.revoke(revocation(items[0], Reason.removeFromCRL), later)
    await ledger.revoke(revocation(items[1], Reason.keyCompromise), later)
    assert await ledger.last_revocation_at(ISSUER_ID) == later
    shown = await ledger.revoked(ISSUER_ID, at=soon)
    assert sorted(shown, key=lambda entry: entry.serial_number) == [
        RevokedCertificate(items[1].serial_number, later, Reason.keyCompromise),
        RevokedCertificate(items[2].serial_number, NOW, Reason.certificateHold),
        RevokedCertificate(short.serial_number, NOW, Reason.certificateHold),
    ]
    shown = await ledger.revoked(ISSUER_ID, at=soon, since=later)
    assert sorted(shown, key=lambda entry: entry.serial_number) == [
        RevokedCertificate(items[0].serial_number, later, Reason.removeFromCRL),
        RevokedCertificate(items[1].serial_number, later, Reason.keyCompromise),
    ]
    numbers = {e.serial_number for e in await ledger.revoked(ISSUER_ID, at=soon + timedelta(1))}
    assert numbers == {items[1].serial_number, items[2].serial_number}
    assert await ledger.revoked("cd" * 20, at=NOW) == []


async def test_crls_have_numbers_of_their_own(ledger: Ledger) -> None:
    """Per issuer; the newest full one and the newest delta are found."""

    def crl(number: int, base: int | None = None, issuer_id: str = ISSUER_ID) -> StoredCRL:
        return StoredCRL(issuer_id, number, base, NOW, NOW + timedelta(days=1), b"crl%d" % number)

    assert await ledger.newest_crl(ISSUER_ID, delta=False) is None
    for item in (crl(1), crl(2, 1), crl(3), crl(4, 3), crl(9, issuer_id="other")):
        assert await ledger.store_crl(item)
    assert not await ledger.store_crl(replace(crl(4), der=b"another"))
    assert await ledger.newest_crl(ISSUER_ID, delta=False) == crl(3)
    assert await ledger.newest_crl(ISSUER_ID, delta=True) == crl(4, 3)


# --- the audit trail ------------------------------------------------------------------------------------------


async def test_every_act_has_its_line_bound_to_the_one_before(
    ledger: Ledger, other: Ledger
) -> None:
    """Also when two processes write: the chain does not fork and no number is left out."""
    await asyncio.gather(
        *(issue(ledger if n % 2 else other, f"enb{n}") for n in range(40)),
    )
    lines = await ledger.audit_entries()
    assert [line.number for line in lines] == list(range(1, 121))
    acts = {"entity.add": 40, "issue": 40, "confirm": 40}
    assert Counter(line.action for line in lines) == acts
    previous = bytes(32)
    for line in lines:
        assert line.previous_hash == previous
        detail = json.dumps(line.detail, sort_keys=True, separators=(",", ":"))
        body = [line.number, int(line.at.timestamp()), line.actor, line.action, line.subject]
        encoded = json.dumps([*body, detail], separators=(",", ":")).encode()
        previous = hashlib.sha256(previous + encoded).digest()
        assert line.hash == previous
    assert await ledger.audit_entries(after=118) == lines[118:]
    assert await ledger.audit_entries(after=10, limit=2) == lines[10:12]


# --- many at once ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(153)
async def test_of_many_claims_on_a_transaction_id_one_holds(ledger: Ledger, other: Ledger) -> None:
    """200 different requests from two processes: one may issue, all others learn who."""
    items = [
        operation(transaction_id=b"contended", request_digest=b"%d" % number)
        for number in range(200)
    ]
    results = await asyncio.gather(
        *(
            (ledger if number % 2 else other).reserve(item, intent(f"enb{number}"), NOW)
            for number, item in enumerate(items)
        )
    )
    (winner,) = [item for item, result in zip(items, results, strict=True) if result is None]
    assert [result for result in results if result is not None] == [
        replace(winner, answer=b"")
    ] * 199
    assert await ledger.counts() == {S.reserved: 1}


async def test_work_that_waits_shares_a_commit(ledger: Ledger) -> None:
    """A burst of issuances takes a few commits; also more than fit into one batch."""
    many = 2 * MAX_BATCH
    before = ledger.commit_count
    items = [operation() for _ in range(many)]
    await asyncio.gather(
        *(ledger.reserve(item, intent(f"enb{n}"), NOW) for n, item in enumerate(items))
    )
    made = certificate(1)
    await asyncio.gather(*(ledger.store(item, made, NOW) for item in items))
    assert await ledger.counts() == {S.issued: many}
    assert ledger.commit_count - before <= 40


async def test_a_failing_piece_of_work_spoils_no_other(ledger: Ledger) -> None:
    """Whatever it raised after whatever it wrote: the rest of its batch is stored, it is not."""

    def breaks(connection: Connection) -> None:
        connection.execute(text("DELETE FROM certificates"))
        raise ZeroDivisionError

    async def broken() -> None:
        await write(ledger._database, breaks)

    results = await asyncio.gather(
        ledger.reserve(operation(), intent("enb1"), NOW),
        broken(),
        ledger.reserve(operation(), intent("enb2"), NOW),
        write(ledger._database, lambda connection: connection.execute(text("SELECT nonsense"))),
        ledger.reserve(operation(), intent("enb3"), NOW),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        type(None),
        ZeroDivisionError,
        type(None),
        StoreUnavailable,
        type(None),
    ]
    assert await ledger.counts() == {S.reserved: 3}


async def test_a_cancelled_caller_does_not_disturb_the_ledger(ledger: Ledger) -> None:
    """Its work may be done or not; others go on."""
    task = asyncio.create_task(ledger.reserve(operation(), intent(), NOW))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reading = asyncio.create_task(ledger.counts())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await ledger.reserve(operation(), intent(), NOW) is None


async def test_what_is_queued_at_the_end_is_finished(node: Node) -> None:
    """`close` waits for it; afterwards nothing is taken, and closing again is harmless."""
    first = node()
    await first.open()
    waiting = [asyncio.create_task(issue(first, f"enb{n}", confirmed=False)) for n in range(5)]
    await asyncio.sleep(0.05)
    await asyncio.gather(*waiting)
    queued = asyncio.create_task(first.reserve(operation(), intent(), NOW))
    await asyncio.sleep(0)
    await first.close()
    await first.close()
    assert await queued is None
    with pytest.raises(StoreUnavailable, match="closed"):
        await first.ping()
    with pytest.raises(StoreUnavailable, match="closed"):
        await first.counts()
    second = node()
    await second.open()
    assert await second.counts() == {S.issued: 5, S.reserved: 1}


async def test_a_database_error_is_told_as_store_unavailable(ledger: Ledger) -> None:
    """Reading and writing, without the statement or its values."""
    await write(
        ledger._database,
        lambda connection: connection.execute(text("ALTER TABLE certificates RENAME TO x")),
    )
    item = operation(requester="secret-requester")
    for failing in (
        ledger.reserve(item, intent(), NOW),
        ledger.counts(),
        ledger.certificate(1, NOW),
    ):
        with pytest.raises(StoreUnavailable) as failure:
            await failing
        assert "SELECT" not in failure.value.detail
        assert "secret" not in failure.value.detail
    await ledger.ping()


# --- schema ---------------------------------------------------------------------------------------------------


async def test_migrations_make_what_is_declared(ledger: Ledger) -> None:
    """Alembic sees no difference between the migrated database and the tables of schema.py."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from ra_gateway.ca.ledger import schema
    from ra_gateway.ca.ledger.migrations import config

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, schema.metadata))

    assert await ledger._database.read_state(differences) == []
    assert ScriptDirectory.from_config(config()).get_heads() == [schema.HEAD]


async def test_two_may_migrate_at_once(where: LedgerLocation) -> None:
    """One does, the other finds it done."""
    ledgers = [open_ledger(where) for _ in range(4)]
    await asyncio.gather(*(ledger.migrate() for ledger in ledgers))
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    assert await ledgers[0].counts() == {}
    for ledger in ledgers:
        await ledger.close()


async def test_a_ledger_of_a_newer_release_is_refused(ledger: Ledger, node: Node) -> None:
    """To open it or to migrate it would spoil it."""
    await write(
        ledger._database,
        lambda connection: connection.execute(
            text("UPDATE alembic_version SET version_num = '9999'")
        ),
    )
    for attempt in (node().open(), node().migrate()):
        with pytest.raises(ConfigError, match="9999 was made by a newer release"):
            await attempt
