"""kill -9 at every step of the CA's work: the ledger stays consistent, and who asks again gets one certificate.

A device asks; the CA's process kills itself at a point; another process with the same ledger gets the same octets.
After every kill the ledger is read, by SQL of this module and by `ra_gateway.ca.ledger.verify`. The points:

    request              a message begins to be handled (for kills a random time after it)
    step.NAME.before     before and after a step of `Issuer.issue`: check, number, reserve, build, inspect, sign,
    step.NAME.after      answer, store
    ledger.NAME.before   before and after a call of the ledger: reserve, store, confirm, revoke, sweep
    ledger.NAME.after
    WORK.begun           inside the database's transaction, before the first statement of reserve, store, confirm,
                         revoke, reject (the sweep's first half) or forget (its second)
    WORK.statement       after the n-th statement of it
    WORK.committing      all statements have run: killed before COMMIT, or some microseconds after it began
    WORK.committed       COMMIT has returned, and nobody who waits for it was told
    answer.none          the answer is there, and nothing of it was written
    answer.half          half of it was written
    answer.whole         all of it was written
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from ra_gateway.ca.ledger.verify import verify
from ra_gateway.cmp.bodies import cert_rep_message, rev_rep_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertTemplate, cert_req_messages
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage
from ra_gateway.cmp.names import from_rfc4514
from tests.support import pki
from tests.support.crashing import STEPS, Job, Nursery, Outcome
from tests.support.credentials import cmp_certificate
from tests.support.desk import CONFIRM_WAIT_SECONDS, NOW, Desk, Enrolment, open_desk
from tests.support.pki import OperatorPKI

MOST_STATEMENTS = 30
"""More than any transaction here has: the loop over them ends before."""

GROUP = 20
GROUP_SECONDS = 0.06
"""A process needs about as long for a group."""

COMMIT_SECONDS = 0.002
"""Within that time after it began a COMMIT has perhaps returned, perhaps not."""

UNTIL_IT_IS_RESERVED = (
    *[f"step.{step}.{when}" for step in STEPS[:3] for when in ("before", "after")],
    "ledger.reserve.before",
    "reserve.begun",
    "reserve.committing",
    "reserve.committed",
    "ledger.reserve.after",
)
UNTIL_IT_IS_STORED = (
    *[f"step.{step}.{when}" for step in STEPS[3:7] for when in ("before", "after")],
    "step.store.before",
    "ledger.store.before",
    "store.begun",
    "store.committing",
)
ONCE_IT_IS_STORED = (
    "store.committed",
    "ledger.store.after",
    "step.store.after",
    "answer.none",
    "answer.half",
    "answer.whole",
)

numbers = itertools.count(1)


@dataclass(frozen=True)
class Site:
    """A ledger and those who use it: the CA's processes, and a device.

    Args:
        desk: Makes messages; its own CA is closed.
    """

    where: LedgerLocation
    nursery: Nursery
    desk: Desk

    def run(self, *messages: bytes, **more: Any) -> Outcome:
        """Have a new CA process handle messages."""
        return self.nursery.run(Job(self.where, messages, **more))

    async def request(self, body_type: BodyType = BodyType.ir, **options: Any) -> Asking:
        """Make a request of a base station that nobody has seen before."""
        key = pki.make_key("p256")
        template = CertTemplate(
            subject_der=from_rfc4514(f"CN=enb{next(numbers)}.example.net,O=Example Operator")
        )
        der = await self.desk.request(body_type, **{"key": key, "template": template} | options)
        return Asking(self, key, der)

    async def confirmed(self, count: int = 1) -> list[Enrolment]:
        """Have base stations get a certificate each and confirm it."""
        enrolments = self.enrolments([await self.request() for _ in range(count)])
        certconfs = [await self.desk.confirmation(enrolment) for enrolment in enrolments]
        for answer in self.run(*certconfs).answers:
            assert PKIMessage.from_der(answer).body_type is BodyType.pkiconf
        return enrolments

    def enrolments(self, group: list[Asking]) -> list[Enrolment]:
        """Have requests answered."""
        outcome = self.run(*[asking.der for asking in group])
        return [asking.enrolment(outcome, index) for index, asking in enumerate(group)]

    async def renewal(self, old: Enrolment, **options: Any) -> Asking:
        return await self.request(
            BodyType.kur,
            template=CertTemplate(subject_der=old.certificate.subject_der),
            **options,
        )

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """The ledger, open in this process."""
        ledger = open_ledger(self.where)
        await ledger.open()
        try:
            yield ledger
        finally:
            await ledger.close()

    async def inspect(self) -> State:
        """Return what is stored, which is consistent."""
        async with self.ledger() as ledger:
            state = await ledger.database.read_state(State.read)
            issuing = cmp_certificate(self.desk.operator.issuing.certificate)
            root = cmp_certificate(self.desk.operator.root.certificate)
            key = self.desk.operator.issuing.private_key
            issuers = {Issuer(issuing, (root,), key, bytes).id: issuing}
            findings = (await verify(ledger, issuers, NOW)).findings
        assert [str(finding) for finding in findings] == []
        state.require_consistent()
        return state


@dataclass(frozen=True)
class Asking:
    """A request for a certificate; the device has its key."""

    site: Site
    key: pki.PrivateKey
    der: bytes

    @property
    def spki_digest(self) -> bytes:
        (request,) = cert_req_messages(PKIMessage.from_der(self.der).body_content)
        return hashlib.sha256(request.template.spki_der or b"").digest()

    @property
    def transaction_id(self) -> str:
        return (PKIMessage.from_der(self.der).header.transaction_id or b"").hex()

    def enrolment(self, outcome: Outcome, index: int = 0) -> Enrolment:
        """Return what the device has after an answer, which has to be positive."""
        der = outcome.answers[index]
        return self.site.desk.received(self.key, self.der, PKIMessage.from_der(der))


@dataclass(frozen=True, repr=False)
class State:
    """All rows of a ledger that tell of certificates, as dictionaries."""

    certificates: dict[str, dict[str, Any]]
    operations: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    head: dict[str, Any]

    @classmethod
    def read(cls, connection: Connection) -> State:
        def rows(sql: str) -> list[dict[str, Any]]:
            return [dict(row) for row in connection.execute(text(sql)).mappings()]

        (head,) = rows("SELECT number, hash FROM audit_head")
        return cls(
            {row["serial"]: row for row in rows("SELECT * FROM certificates")},
            rows("SELECT * FROM operations"),
            rows("SELECT * FROM audit ORDER BY number"),
            head,
        )

    def require_consistent(self) -> None:
        """Check what has to hold whenever the CA's process may have died."""
        for serial, row in self.certificates.items():
            assert (row["status"] == "reserved") == (row["der"] is None)
            assert [serial] * (row["der"] is not None) == self.acts("issue", serial)
            decided = self.acts("confirm", serial) + self.acts("reject", serial)
            if row["status"] in ("reserved", "issued"):
                assert decided == []
            gone = row["status"] in ("revoked", "rejected")
            assert gone == bool(self.acts("revoke", serial) + self.acts("reject", serial))
            if row["der"] is not None:
                certificate = Certificate.from_der(row["der"])
                assert serial == f"{certificate.serial_number:x}"
                assert row["fingerprint"] == hashlib.sha256(row["der"]).digest()
        for row in self.operations:
            self._require_whole(row)
        self._require_chained()

    def _require_whole(self, operation: dict[str, Any]) -> None:
        """Check an operation: its answer is that of the certificate stored, or there is neither."""
        if operation["body_type"] == BodyType.rr:
            assert operation["answer"]
            assert self.certificates[operation["old_serial"]]["status"] == "revoked"
            return
        row = self.certificates[operation["serial"]]
        assert bool(operation["answer"]) == (row["der"] is not None)
        if operation["answer"]:
            answer = PKIMessage.from_der(operation["answer"])
            (response,) = cert_rep_message(answer.body_content).responses
            assert row["der"] == response.certificate_der
            assert operation["transaction_id"] == answer.header.transaction_id
        explicit = operation["confirm_by"] is not None
        serial = operation["serial"]
        assert bool(operation["confirm_answer"]) == bool(self.acts("confirm", serial))
        if row["status"] == "confirmed" and explicit:
            assert operation["confirm_answer"]

    def _require_chained(self) -> None:
        """Check the audit trail against its definition, written down once more."""
        previous = bytes(32)
        for number, row in enumerate(self.audit, 1):
            columns = ("number", "at", "actor", "action", "subject", "detail")
            line = json.dumps([row[name] for name in columns], separators=(",", ":"))
            assert (number, previous) == (row["number"], row["previous_hash"])
            previous = hashlib.sha256(previous + line.encode()).digest()
            assert previous == row["hash"]
        assert {"number": len(self.audit), "hash": previous} == self.head

    def acts(self, action: str, serial: str) -> list[str]:
        found = [row["subject"] for row in self.audit if row["action"] == action]
        return [subject for subject in found if subject == serial]

    def of(self, asking: Asking) -> list[str]:
        """Return the statuses of all certificates that a request got, by its key and by the trail."""
        mine = [
            row
            for row in self.certificates.values()
            if row["spki_digest"] == asking.spki_digest and row["der"] is not None
        ]
        said = [
            row["subject"]
            for row in self.audit
            if row["action"] == "issue"
            and json.loads(row["detail"])["transaction_id"] == asking.transaction_id
        ]
        assert sorted(said) == sorted(row["serial"] for row in mine)
        return [row["status"] for row in mine]

    def status(self, certificate: Certificate) -> str:
        status: str = self.certificates[f"{certificate.serial_number:x}"]["status"]
        return status


# --- where it happens -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery(
    operator_pki: OperatorPKI, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nursery]:
    """Where the CA's processes come from."""
    with Nursery(operator_pki, tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture(params=["sqlite", "postgresql"])
async def site(
    request: pytest.FixtureRequest, nursery: Nursery, operator_pki: OperatorPKI, tmp_path: Path
) -> Site:
    """A new ledger, in which the RA is registered."""
    where: LedgerLocation = tmp_path / "ledger.db"
    if request.param == "postgresql":
        where = request.getfixturevalue("postgres_url")
    ledger = open_ledger(where)
    await ledger.migrate()
    async with open_desk(operator_pki, tmp_path, ledger=ledger) as desk:
        pass
    return Site(where, nursery, desk)


def require_kept(killed: Outcome, answers: tuple[bytes, ...]) -> None:
    """Check that what had left before a kill is what is answered after it."""
    for before, complete, after in zip(killed.written, killed.complete, answers, strict=True):
        assert after.startswith(before)
        assert not complete or before == after


async def killed_at(site: Site, der: bytes, point: str, **more: Any) -> tuple[Outcome, State]:
    """Have a CA process be killed at a point; return what it wrote, and what is stored then."""
    outcome = site.run(der, kill_at=point, **more)
    assert outcome.killed, f"{point} was not reached"
    return outcome, await site.inspect()


async def killed_at_every_statement(site: Site, der: bytes, work: str, **more: Any) -> int:
    """Send a message again and again, the process being killed one statement later each time.

    Returns:
        How many statements there were. The last process lived: the message is answered.
    """
    for nth in range(1, MOST_STATEMENTS):
        outcome = site.run(der, kill_at=f"{work}.statement", nth=nth, **more)
        await site.inspect()
        if not outcome.killed:
            return nth - 1
    raise AssertionError("it does not end")


# --- issuing --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.requirement(153, 156)
@pytest.mark.parametrize(
    "points", [UNTIL_IT_IS_RESERVED, UNTIL_IT_IS_STORED], ids=["reserving", "storing"]
)
async def test_killed_before_the_certificate_is_stored(site: Site, points: tuple[str, ...]) -> None:
    """Nothing was issued and nothing has left; the same request then gets one certificate."""
    for point in points:
        asking = await site.request()
        killed, state = await killed_at(site, asking.der, point)
        assert killed.written == (b"",), point
        assert state.of(asking) == [], point
        asking.enrolment(site.run(asking.der))
        assert (await site.inspect()).of(asking) == ["issued"], point


@pytest.mark.requirement(153, 156)
async def test_killed_once_the_certificate_is_stored(site: Site) -> None:
    """It is the one that the same request gets, in the octets of which some may have left before."""
    written = []
    for point in ONCE_IT_IS_STORED:
        asking = await site.request()
        killed, state = await killed_at(site, asking.der, point)
        assert state.of(asking) == ["issued"], point
        again = site.run(asking.der)
        require_kept(killed, again.answers)
        stored = state.status(asking.enrolment(again).certificate)
        assert stored == "issued", point
        assert (await site.inspect()).of(asking) == ["issued"], point
        written.append(len(killed.written[0]) / len(again.answers[0]))
    assert written == pytest.approx([0, 0, 0, 0, 0.5, 1], abs=0.01)


@pytest.mark.requirement(156)
@pytest.mark.parametrize("work", ["reserve", "store"])
async def test_killed_at_every_statement_of_issuance(site: Site, work: str) -> None:
    """A transaction is there as a whole or not at all: a renewal that needs no confirmation has most of them."""
    (old,) = await site.confirmed()
    header = site.desk.header(general_info=(IMPLICIT_CONFIRM,))
    asking = await site.renewal(old, header=header)
    assert await killed_at_every_statement(site, asking.der, work) > 3
    state = await site.inspect()
    assert state.of(asking) == ["confirmed"]
    assert state.status(old.certificate) == "superseded"


@pytest.mark.requirement(156)
@pytest.mark.parametrize("work", ["reserve", "store"])
async def test_killed_while_it_commits(site: Site, work: str) -> None:
    """Whether the database had it is then its own affair; the device gets one certificate."""
    generator = random.Random(work)
    for _ in range(3):
        asking = await site.request()
        seconds = generator.uniform(0, COMMIT_SECONDS)
        killed, state = await killed_at(site, asking.der, f"{work}.committing", kill_after=seconds)
        assert state.of(asking) in ([], ["issued"])
        again = site.run(asking.der)
        require_kept(killed, again.answers)
        asking.enrolment(again)
        assert (await site.inspect()).of(asking) == ["issued"]


# --- many at once ---------------------------------------------------------------------------------------------


def random_moment(generator: random.Random) -> dict[str, Any]:
    """Return a moment while many requests are handled."""
    return {"kill_at": "request", "kill_after": generator.uniform(0, GROUP_SECONDS)}


def random_point(generator: random.Random) -> dict[str, Any]:
    """Return a point that many requests at once come to."""
    point = generator.choice((*UNTIL_IT_IS_RESERVED, *UNTIL_IT_IS_STORED, *ONCE_IT_IS_STORED))
    one_by_one = point.startswith(("step", "ledger", "answer"))
    return {"kill_at": point, "nth": generator.randint(1, GROUP) if one_by_one else 1}


@pytest.mark.requirement(153, 156)
@pytest.mark.parametrize("seed", range(6))
async def test_killed_with_many_requests_at_once(site: Site, seed: int) -> None:
    """Twenty share commits and a process, which is killed twice; each gets exactly one certificate."""
    generator = random.Random(seed)
    group = [await site.request() for _ in range(GROUP)]
    messages = [asking.der for asking in group]
    kills = []
    # After the first kill nobody knows which points the requests still come to; hence a moment.
    for kill in (random_point(generator), random_moment(generator)):
        kills.append(site.run(*messages, together=True, **kill))
        assert kills[-1].killed, kill
        state = await site.inspect()
        for asking, complete in zip(group, kills[-1].complete, strict=True):
            assert state.of(asking) in ([["issued"]] if complete else [[], ["issued"]])
    again = site.run(*messages, together=True)
    for killed in kills:
        require_kept(killed, again.answers)
    state = await site.inspect()
    for index, asking in enumerate(group):
        certificate = asking.enrolment(again, index).certificate
        assert state.of(asking) == ["issued"]
        assert state.status(certificate) == "issued"


# --- confirming -----------------------------------------------------------------------------------------------

CONFIRMED = {
    "ledger.confirm.before": False,
    "confirm.begun": False,
    "confirm.committing": False,
    "confirm.committed": True,
    "ledger.confirm.after": True,
    "answer.half": True,
}
"""Whether a certificate is confirmed by a process that is killed there."""


@pytest.mark.slow
@pytest.mark.requirement(109, 156)
@pytest.mark.parametrize("revoke", [False, True], ids=["superseded", "revoked"])
async def test_killed_at_the_confirmation_of_a_renewal(site: Site, revoke: bool) -> None:
    """The new certificate is confirmed and the old one gives way to it, or neither."""
    wanted = "revoked" if revoke else "superseded"
    for point, done in CONFIRMED.items():
        (old,) = await site.confirmed()
        asking = await site.renewal(old)
        renewed = asking.enrolment(site.run(asking.der))
        certconf = await site.desk.confirmation(renewed)
        killed, state = await killed_at(site, certconf, point, revoke_superseded=revoke)
        assert state.of(asking) == ["confirmed" if done else "issued"], point
        assert state.status(old.certificate) == (wanted if done else "confirmed"), point
        again = site.run(certconf, asking.der, revoke_superseded=revoke)
        require_kept(killed, again.answers[:1])
        assert PKIMessage.from_der(again.answers[0]).body_type is BodyType.pkiconf
        assert again.answers[1] == renewed.answer.der
        state = await site.inspect()
        assert state.of(asking) == ["confirmed"], point
        assert state.status(old.certificate) == wanted, point


@pytest.mark.requirement(109, 156)
@pytest.mark.parametrize("revoke", [False, True], ids=["superseded", "revoked"])
async def test_killed_at_every_statement_of_a_confirmation(site: Site, revoke: bool) -> None:
    """All of it is there, or nothing."""
    (old,) = await site.confirmed()
    asking = await site.renewal(old)
    certconf = await site.desk.confirmation(asking.enrolment(site.run(asking.der)))
    more = {"revoke_superseded": revoke}
    assert await killed_at_every_statement(site, certconf, "confirm", **more) > 3
    state = await site.inspect()
    assert state.of(asking) == ["confirmed"]
    assert state.status(old.certificate) == ("revoked" if revoke else "superseded")


# --- revoking and sweeping ------------------------------------------------------------------------------------

REVOKED = {
    "ledger.revoke.before": False,
    "revoke.begun": False,
    "revoke.committing": False,
    "revoke.committed": True,
    "ledger.revoke.after": True,
    "answer.half": True,
}


@pytest.mark.requirement(129, 156)
async def test_killed_at_a_revocation(site: Site) -> None:
    """The certificate is revoked and the answer stored, or neither; the same rr then gets its answer."""
    devices = await site.confirmed(len(REVOKED))
    for (point, done), device in zip(REVOKED.items(), devices, strict=True):
        certificate = device.certificate
        rr = await site.desk.revocation(certificate)
        killed, state = await killed_at(site, rr, point)
        assert state.status(certificate) == ("revoked" if done else "confirmed"), point
        again = site.run(rr)
        require_kept(killed, again.answers)
        require_revoked(await site.inspect(), certificate, again)


@pytest.mark.requirement(129, 156)
async def test_killed_at_every_statement_of_a_revocation(site: Site) -> None:
    """All of it is there, or nothing."""
    (device,) = await site.confirmed()
    certificate = device.certificate
    rr = await site.desk.revocation(certificate)
    assert await killed_at_every_statement(site, rr, "revoke") > 3
    require_revoked(await site.inspect(), certificate, site.run(rr))


def require_revoked(state: State, certificate: Certificate, outcome: Outcome) -> None:
    """Check that a certificate was revoked once, and that the rr was told so."""
    (der,) = outcome.answers
    (info,) = rev_rep_content(PKIMessage.from_der(der).body_content).statuses
    assert info.status is PKIStatus.accepted
    assert state.status(certificate) == "revoked"
    serial = f"{certificate.serial_number:x}"
    assert state.acts("revoke", serial) == [serial]


REJECTED = {
    "ledger.sweep.before": False,
    "reject.begun": False,
    "reject.statement": False,
    "reject.committing": False,
    "reject.committed": True,
    "forget.begun": True,
    "forget.statement": True,
    "forget.committing": True,
    "forget.committed": True,
    "ledger.sweep.after": True,
}


@pytest.mark.requirement(111)
async def test_killed_while_it_sweeps(site: Site) -> None:
    """What was not confirmed in time is rejected by the next process at the latest, and once."""
    now = NOW + timedelta(seconds=CONFIRM_WAIT_SECONDS + 1)
    for point, done in REJECTED.items():
        asking = await site.request()
        certificate = asking.enrolment(site.run(asking.der)).certificate
        outcome = site.run(kill_at=point, now=now, sweeps=True)
        assert outcome.killed, point
        assert (await site.inspect()).of(asking) == ["rejected" if done else "issued"], point
        site.run(now=now)
        state = await site.inspect()
        assert state.of(asking) == ["rejected"], point
        serial = f"{certificate.serial_number:x}"
        assert state.acts("reject", serial) == [serial]
