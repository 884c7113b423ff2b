"""What is offered in excess is turned away at once, and what was begun is finished; counted in turns, not in time."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ra_gateway.app.application import Application
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.envelope import envelope_of
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, assemble
from ra_gateway.cmp.responder import Reply
from ra_gateway.config.reading import load
from ra_gateway.device.client import post
from ra_gateway.errors import StoreUnavailable
from ra_gateway.ra.begun import Begun
from ra_gateway.ra.rates import Rate
from ra_gateway.server.cmp import CMPListener
from ra_gateway.server.listener import Refusal
from tests.support.answers import fail_names
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.raw_http import PATH, ROUTES, Client, until
from tests.support.setups import edit, make_setup
from tests.support.stations import Station


def message(body_type: BodyType, transaction_id: bytes) -> bytes:
    header = PKIHeader(
        pvno=2, sender_der=ANYONE, recipient_der=ANYONE, transaction_id=transaction_id
    )
    return assemble(header.to_der(), bytes((0xA0 | body_type, 0x02, 0x30, 0x00)), None)


class Desk:
    """A handler that answers so many messages a turn, the oldest first, and knows what was begun with it."""

    def __init__(self) -> None:
        self.queue: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self.entered = 0
        self.begun = Begun()

    async def handle(self, der: bytes, **_where: str) -> Reply:
        done = asyncio.get_running_loop().create_future()
        self.queue.append((der, done))
        self.entered += 1
        await done
        return Reply(der, understood=True)

    def has_begun(self, transaction_id: bytes) -> bool:
        return self.begun.ride(transaction_id)

    def turn(self, count: int) -> int:
        """Answer the oldest; returns how many."""
        answered = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        for der, done in answered:
            self.begun.note(envelope_of(der).transaction_id, 0.0)
            done.set_result(None)
        return len(answered)


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[Desk, CMPListener, Any]]:
    desk = Desk()
    listener = CMPListener(desk, host="127.0.0.1", port=0, routes=ROUTES, profiles={}, **limits)
    host, port = await listener.start()
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection(host, port)))
        return clients[-1]

    try:
        yield desk, listener, connect
    finally:
        desk.turn(len(desk.queue))
        await listener.drain(1)
        for client in clients:
            client.writer.close()


@dataclass
class Flow:
    """A device that sends its ir and then its certConf, each a few times where it is turned away."""

    client: Client
    transaction_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    is_begun: bool = False
    is_done: bool = False
    tries_left: int = 3
    sent_at: int = 0
    longest_turns: int = 0
    answer: asyncio.Task[Any] | None = None

    @property
    def has_given_up(self) -> bool:
        return not self.tries_left

    @property
    def has_answer(self) -> bool:
        return self.answer is not None and self.answer.done()

    def send(self, turn: int) -> None:
        self.sent_at = turn
        body_type = BodyType.certConf if self.is_begun else BodyType.ir
        der = message(body_type, self.transaction_id)
        self.answer = asyncio.create_task(self.client.post(der, path=PATH))

    def take(self, turn: int) -> int:
        """Take what came; returns the HTTP status."""
        assert self.answer is not None
        response, self.answer = self.answer.result(), None
        if response.status == 200:
            self.longest_turns = max(self.longest_turns, turn - self.sent_at)
            self.is_begun, self.is_done, self.tries_left = True, self.is_begun, 3
        else:
            assert response.headers["retry-after"]
            self.tries_left -= 1
        return int(response.status)


LIMIT, A_TURN, TURNS = 32, 8, 40
PEAK = A_TURN / 2
"""Enrolments that are finished in a turn at most: each is two messages."""


async def test_twice_what_can_be_done_is_finished_where_it_was_begun() -> None:
    """Offered twice what it can do, a listener finishes what was begun, at its peak, and answers the rest at once."""
    stations: list[Flow] = []
    refused = 0
    async with (
        asyncio.timeout(4 * PATIENCE_SECONDS),
        serving(max_requests_in_flight=LIMIT) as (desk, _, connect),
    ):
        for turn in range(TURNS + LIMIT):
            if turn < TURNS:
                stations += [Flow(await connect()) for _ in range(int(2 * PEAK))]
            sending = [
                item
                for item in reversed(stations)  # those that begin come before those that go on
                if item.answer is None and not item.is_done and not item.has_given_up
            ]
            entered = desk.entered
            for station in sending:
                station.send(turn)

            def turned_away(among: list[Flow] = sending) -> list[Flow]:
                return [item for item in among if item.has_answer]

            # Nobody waits for a turn to be told that there is no room.
            await until(lambda: desk.entered - entered + len(turned_away()) == len(sending))  # noqa: B023
            for station in turned_away():
                assert station.take(turn) == 503
                refused += 1
            assert len(desk.queue) <= LIMIT * 5 / 4
            waiting = [item for item in stations if item.answer is not None]
            count = desk.turn(A_TURN)
            await until(lambda: sum(item.has_answer for item in waiting) == count)  # noqa: B023
            for station in waiting:
                if station.has_answer:
                    assert station.take(turn) == 200
            if turn == TURNS - 1:
                finished_in_time = sum(item.is_done for item in stations)
    begun = [item for item in stations if item.is_begun]
    assert [item for item in begun if not item.is_done] == []
    assert finished_in_time >= 0.8 * PEAK * TURNS
    assert refused > 0
    assert max(item.longest_turns for item in begun) <= LIMIT * 5 / 4 / A_TURN


async def test_whoever_says_certconf_takes_no_room_from_what_was_begun() -> None:
    """Strangers' followers get an eighth on top, and never all of it; a known transaction still gets in."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        serving(max_requests_in_flight=8) as (desk, _, connect),
    ):
        known = secrets.token_bytes(16)
        desk.begun.note(known, 0.0)
        answers = []
        for body_type, room in ((BodyType.ir, 8), (BodyType.certConf, 9)):
            while len(desk.queue) < room:
                client = await connect()
                before = desk.entered
                posting = client.post(message(body_type, secrets.token_bytes(16)), path=PATH)
                answers.append(asyncio.create_task(posting))
                await until(lambda: desk.entered > before)  # noqa: B023
            turned_away = await (await connect()).post(
                message(body_type, secrets.token_bytes(16)), path=PATH
            )
            assert turned_away.status == 503
        for _ in range(10 - len(desk.queue)):
            posting = (await connect()).post(message(BodyType.ir, known), path=PATH)
            answers.append(asyncio.create_task(posting))
        await until(lambda: len(desk.queue) == 10)
        assert (await (await connect()).post(message(BodyType.ir, known), path=PATH)).status == 503
        desk.turn(10)
        assert {(await answer).status for answer in answers} == {200}


@pytest.mark.parametrize("transaction_id", [b"t" * 16, b"t"])
def test_an_id_that_was_copied_lets_no_flood_through(transaction_id: bytes) -> None:
    """A transactionID travels in the clear: it goes before others a few times only."""
    begun = Begun()
    assert not begun.ride(transaction_id)
    begun.note(transaction_id, 0.0)
    rides = sum(begun.ride(transaction_id) for _ in range(1000))
    begun.note(transaction_id, 0.0)
    assert 8 <= rides <= 64
    assert not begun.ride(transaction_id)


def test_what_was_begun_is_let_go_when_its_time_is_over() -> None:
    """A node that serves on does not remember each transaction of its life; one that goes on is kept."""
    begun, hour = Begun(3600.0), 3600.0
    for number in range(40):
        begun.note(number.to_bytes(16, "big"), float(number))
    begun.note(bytes(16), hour - 1)
    for number in range(40, 80):
        begun.note(number.to_bytes(16, "big"), hour + number)
    assert len(begun) == 41
    assert begun.ride(bytes(16))


def test_what_is_no_message_opens_something() -> None:
    """Octets that are no CMP have no claim to go before anything, whatever is in them."""
    follower = message(BodyType.certConf, b"t" * 16)
    assert envelope_of(follower) == (True, b"t" * 16)
    assert not envelope_of(message(BodyType.ir, b"t" * 16)).follows
    for broken in (b"", b"\x30", b"\x30\x80", follower[:20], b"\x04" + follower[1:], b"x" * 100):
        assert not envelope_of(broken).follows


# --- Two gateways on one Redis ------------------------------------------------------------------------------------


async def scraped(gateway: GatewayProcess, session: aiohttp.ClientSession, series: str) -> float:
    """Return a value of a gateway's metrics."""
    (started,) = [event for event in gateway.events if event["event"] == "started"]
    text = await (await session.get(f"{started['management']}/metrics")).text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


async def test_two_gateways_keep_to_limits_together(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """A vendor's second device is refused at the other gateway; who floods cuts off nobody who began."""
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki}, redis_url=redis_url)
    edit(config, "[vendors.acme]\n", "[vendors.acme]\nrequests_per_second = 0.0001\n")
    limits = "source_requests_per_second = 0.0005\nburst_seconds = 3600.0\n"
    config.write_text(f"{config.read_text()}\n[limits]\n{limits}")
    root = tmp_path / "setup/operator/root.pem"
    first, second = (Station(serial, vendor_pki, root) for serial in ("ENB-1", "ENB-2"))
    with GatewayProcess(config) as one, GatewayProcess(config) as other:
        async with aiohttp.ClientSession() as session:
            confirmation = await first.confirmation(await first.request(session, one))
            refusal = PKIMessage.from_der(await second.request(session, other))
            assert fail_names(refusal) == ["systemUnavail"]
            assert refusal.protection is not None
            # Of a burst of two each gateway has let one through unasked: the second here is one too many.
            for _ in range(5):
                async with session.post(
                    one.url, data=b"\x30\x00", headers={"Content-Type": "application/pkixcmp"}
                ) as answer:
                    status, after = answer.status, int(answer.headers.get("Retry-After", "0"))
            assert status == 503
            assert 1 <= after <= 2000
            await first.finish(await post(session, one.url, confirmation))
            assert await scraped(one, session, 'ra_gateway_turned_away_total{limit="source"}') >= 3
            assert (
                await scraped(other, session, 'ra_gateway_turned_away_total{limit="vendor"}') == 1
            )
        (refused,) = [item for item in other.handled if item["outcome"] == "refused"]
        assert "vendors.acme.requests_per_second" in refused["detail"]
        assert [item for item in one.handled if item["outcome"] == "confirmed"]


async def test_nothing_is_begun_while_too_much_goes_on_in_the_background(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eight exchanges for each request in flight, new requests get 503, and certConf is answered."""
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki})
    edit(config, "[server]\n", "[server]\nmax_requests_in_flight = 1\n")
    application = Application(load(config))
    services, answered = application.services, asyncio.Event()

    async def awaiting() -> bytes:
        await answered.wait()
        return b""

    async def posted(body_type: BodyType) -> Reply:
        return await application._wiring.handle(
            message(body_type, b"t" * 16),
            endpoint="ran",
            profile="",
            operation="",
            peer="192.0.2.7",
        )

    try:
        for _ in range(7):
            services.spawn(awaiting())
        assert (await posted(BodyType.ir)).der
        services.spawn(awaiting())
        with pytest.raises(Refusal) as turned_away:
            await posted(BodyType.ir)
        assert (turned_away.value.status, turned_away.value.headers) == (503, {"Retry-After": "1"})
        assert (await posted(BodyType.certConf)).der
        assert services.limits.turned_away == {"background": 1}
        # Where the store does not answer, an address is told at once, and not let in uncounted.
        services.limits.source = Rate(1.0, 1)
        monkeypatch.setattr(services.limits, "wait_of_source", _unavailable)
        with pytest.raises(Refusal):
            await posted(BodyType.certConf)
    finally:
        answered.set()
        await application.stop()


async def _unavailable(_network: bytes) -> float:
    raise StoreUnavailable("no answer")
