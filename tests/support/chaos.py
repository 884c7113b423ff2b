"""A site whose machines die, freeze and lose what they say, and base stations that behave as real ones do."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.device.client import NotCMP, ServerUnreachable, post
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import AnswerUntrusted, EnrollmentRefused
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, operator_trust
from ra_gateway.keys import load_certificates
from tests.support.credentials import cmp_credential
from tests.support.faulty_way import FaultyWay
from tests.support.insisting import is_unavailable
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI, make_key
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.redis_groups import (
    MASTER,
    ClusterGroup,
    SentinelGroup,
    cluster_group,
    sentinel_group,
)
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, make_setup, set_upstream
from tests.support.shifted_clock import set_clock

ANSWERS_LOST: Final = 0.1
"""Of the answers, how many a base station does not get, though they were sent."""

AGAIN_SECONDS: Final = 0.1
"""After which a base station repeats what was not answered; real ones take longer."""

CLOCKS: Final = (0.0, 0.0, -90.0, 90.0, -250.0, 250.0)
"""By how many seconds the clock of a gateway is off: more than a step takes, and less than messageTime may be off.

Beyond that it tells everybody badTime, who confirms as well, and that ends an operation (RFC 9483 3.6.4): what the
other gateway makes of it then, the device does not want to hear any more.
"""

STORES: Final = "redis", "sentinel", "cluster"


@dataclass
class Site:
    """Two gateways, their store and a CA, each its own process, with ways between them that lose what goes over them.

    Args:
        kept: Where gateways keep transactions: one server, or several that take over from each other.
        ways: Proxies between gateways and CA, and gateways and a single Redis.
        counts: What was done, and what base stations did.
    """

    gateways: list[GatewayProcess]
    ca: CAProcess
    kept: RedisServer | SentinelGroup | ClusterGroup
    vendor: VendorPKI
    trust: TrustDomain
    session: aiohttp.ClientSession
    seed: int
    ways: dict[str, FaultyWay]
    counts: Counter[str] = field(default_factory=Counter)

    # --- what is done to it

    async def disturb(self, count: int, pause_seconds: float) -> None:
        """Do so many things to its processes: to gateways, the CA and the store at the same time, one to each."""
        left = iter(range(count))

        async def lane(
            name: str, *acts: Callable[[random.Random], Awaitable[str]], calm: float = 1.0
        ) -> None:
            chance = random.Random(f"{self.seed} {name}")
            for _ in left:
                self.counts[await chance.choice(acts)(chance)] += 1
                await asyncio.sleep(chance.random() * pause_seconds * calm)

        async with asyncio.TaskGroup() as group:
            often = (self._kill_gateway,) * 4
            group.create_task(lane("gateways", *often, self._freeze_gateway, self._set_clock))
            group.create_task(lane("CA", self._kill_ca, self._kill_ca, self._freeze_ca))
            # Without a store nothing goes on that could be disturbed.
            group.create_task(lane("store", self._kill_store, self._freeze_store, calm=4.0))

    async def _kill_gateway(self, chance: random.Random) -> str:
        await asyncio.to_thread(chance.choice(self.gateways).restart)
        return "gateways killed"

    async def _freeze_gateway(self, chance: random.Random) -> str:
        return await _freeze(chance.choice(self.gateways), chance.random() * 4, "gateways frozen")

    async def _set_clock(self, chance: random.Random) -> str:
        clock_path = chance.choice(self.gateways).clock_path
        assert clock_path is not None
        set_clock(clock_path, chance.choice(CLOCKS))
        return "clocks set"

    async def _kill_ca(self, chance: random.Random) -> str:
        self.ca.kill()
        await asyncio.sleep(chance.random())
        await asyncio.to_thread(self.ca.start)
        return "CA killed"

    async def _freeze_ca(self, chance: random.Random) -> str:
        return await _freeze(self.ca, chance.random() * 5, "CA frozen")

    async def _kill_store(self, chance: random.Random) -> str:
        if isinstance(self.kept, RedisServer):
            self.kept.kill()
            await asyncio.to_thread(self.kept.start)
            return "Redis killed"
        await asyncio.to_thread(_fail_over, self.kept, chance)
        return "Redis failed over"

    async def _freeze_store(self, chance: random.Random) -> str:
        servers = [self.kept] if isinstance(self.kept, RedisServer) else self.kept.servers
        # Shorter than what Sentinels and Clusters take for an end.
        return await _freeze(chance.choice(servers), chance.random() * 0.8, "Redis frozen")

    @property
    def kills(self) -> int:
        """Processes that were killed so far."""
        return (
            sum(self.counts[f"{what} killed"] for what in ("gateways", "CA", "Redis"))
            + (self.counts["Redis failed over"])
        )

    # --- how it is put in order

    async def mend(self) -> None:
        """Have nothing be lost any more, and all clocks be right; gateways are started anew, and trust theirs then."""
        for way in self.ways.values():
            way.share = 0.0
        for gateway in self.gateways:
            assert gateway.clock_path is not None
            set_clock(gateway.clock_path, 0.0)
            await asyncio.to_thread(gateway.restart)

    async def settle(self) -> None:
        """Wait until what nobody confirmed is revoked, by the gateways' agenda or the CA itself."""
        begun, give_up_at = time.time(), time.monotonic() + PATIENCE_SECONDS
        sweep_at = 0.0
        while waiting := self.account().unconfirmed:
            assert time.monotonic() < give_up_at, f"not revoked: {waiting}"
            if max(sweep_at, *waiting.values()) + 1 < time.time():
                sweep_at = (
                    time.time() + 5
                )  # the CA looks through its ledger when it starts, and every minute
                await asyncio.to_thread(self.ca.restart)
            await asyncio.sleep(0.2)
        self.counts["seconds to settle"] = round(time.time() - begun)

    def account(self) -> Account:
        """Read what the CA's ledger and its audit trail say."""
        path = self.ca.config_path.parent / "ca" / "ledger.sqlite"
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            rows = connection.execute(
                "SELECT serial, status, confirm_by, der FROM certificates"
                " WHERE der IS NOT NULL AND entity <> ''"
            ).fetchall()
            acts = connection.execute("SELECT action, subject, detail FROM audit").fetchall()
        account = Account()
        for serial, status, confirm_by, der in rows:
            account.status[serial], account.der[serial] = status, der
            if status == "issued":
                account.unconfirmed[serial] = confirm_by
        for action, serial, text in acts:
            if action == "issue":
                detail = json.loads(text)
                account.issued[serial] = detail["transaction_id"]
                if "confirm_by" not in detail:
                    account.confirmed.append(serial)
            elif action == "confirm":
                account.confirmed.append(serial)
        return account


@dataclass
class Account:
    """What the CA says of the certificates of base stations, by serial number.

    Args:
        status, der, unconfirmed: Of the ledger; the last until when it awaits certConf.
        issued: Of the audit trail, to its transactionID.
        confirmed: Of the audit trail.
    """

    status: dict[str, str] = field(default_factory=dict)
    der: dict[str, bytes] = field(default_factory=dict)
    unconfirmed: dict[str, int] = field(default_factory=dict)
    issued: dict[str, str] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)


async def _freeze(
    process: GatewayProcess | CAProcess | RedisServer, seconds: float, what: str
) -> str:
    process.pause()
    await asyncio.sleep(seconds)
    process.resume()
    return what


def _fail_over(group: SentinelGroup | ClusterGroup, chance: random.Random) -> None:
    """Kill a master, and start it again when another one has taken its place; returns when it follows that."""
    masters = [server for server in group.servers if b"role:master" in _replication(server)]
    killed = chance.choice(masters)
    killed.kill()
    rest = [server for server in group.servers if server is not killed]
    _wait(
        lambda: sum(b"role:master" in _replication(each) for each in rest) == len(masters),
        "another master",
    )
    if isinstance(group, SentinelGroup):
        heir = str(rest[0].port).encode()  # until they agree, they may take the old one back
        asked = f"SENTINEL get-master-addr-by-name {MASTER}"
        _wait(lambda: all(heir in each.command(asked) for each in group.sentinels), "agreement")
    killed.start()
    if isinstance(group, SentinelGroup):  # Sentinels would say so, too, some ten seconds later
        killed.command(f"REPLICAOF 127.0.0.1 {rest[0].port}")
    _wait(lambda: b"master_link_status:up" in _replication(killed), "a replica")


def _replication(server: RedisServer) -> bytes:
    with suppress(OSError):
        return server.command("INFO replication")
    return b""


def _wait(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} never came"
        time.sleep(0.05)


# --- base stations -----------------------------------------------------------------------------------------------


@dataclass
class BaseStation:
    """Says what was not answered again, octet for octet; some poll, some do not, some give up and begin anew.

    Args:
        polls: Whether it polls when it is told to; else it sends again what it sent.
        implicit: Whether it asks for implicitConfirm. It does not give up then: the CA would have a certificate that is
            confirmed, and nobody could tell that nobody has it.
        accepted: Certificates (DER) that it holds as confirmed, the last one in use.
    """

    serial: str
    site: Site
    chance: random.Random
    identity: DeviceIdentity
    polls: bool
    implicit: bool
    accepted: list[bytes] = field(default_factory=list)

    async def obtain(self, body_type: BodyType) -> None:
        """Get a certificate and confirm it, however often it has to begin anew: with another key, or the same."""
        key = make_key("p256")
        subject = None
        if body_type is BodyType.ir:
            subject = f"CN={self.serial}.example.net,O=Example Operator"
        options = RequestOptions(
            body_type=body_type, subject=subject, implicit_confirm=self.implicit
        )
        counts = self.site.counts
        while True:
            enrollment = Enrollment(
                self.identity,
                key,
                options,
                clock=lambda: datetime.now(UTC),
                random_octets=secrets.token_bytes,
            )
            try:
                done = await self._converse(enrollment)
            except EnrollmentRefused as refusal:
                bits = refusal.status_info.fail_info
                counts[f"refused: {', '.join(bit.name for bit in bits)}"] += 1
                done = None
            else:
                counts["given up"] += done is None
            if done is not None:
                self.identity = done.identity
                self.accepted.append(done.certificate.der)
                return
            if self.chance.random() < 0.5:
                key = make_key("p256")
            await asyncio.sleep(AGAIN_SECONDS)

    async def _converse(self, enrollment: Enrollment) -> Done | None:
        """Go through one operation; None if it gave up, which it does not once it has sent certConf."""
        der = await enrollment.request()
        patience, confirming = self.chance.randrange(5, 50), self.implicit
        while True:
            answer = await self._answer(der)
            if answer is not None:
                before = copy.copy(enrollment)
                try:
                    step = await enrollment.receive(answer)
                except AnswerUntrusted:
                    self.site.counts["answers not believed"] += 1
                    return None
                if isinstance(step, Done):
                    return step
                if PKIMessage.from_der(step.der).body_type is BodyType.certConf:
                    if self.chance.random() < 0.03:
                        return None  # it loses power: what came is not kept
                    confirming, der = True, step.der
                    continue
                if self.polls:
                    der = step.der
                else:
                    enrollment = before
                await asyncio.sleep(step.after_seconds)
            patience -= 1
            if patience < 0 and not confirming:
                return None
            self.site.counts["repeats" if answer is None or not self.polls else "polls"] += 1
            await asyncio.sleep(AGAIN_SECONDS)

    async def _answer(self, der: bytes) -> bytes | None:
        url = self.chance.choice(self.site.gateways).url
        with suppress(ServerUnreachable, NotCMP):
            answer = await post(self.site.session, url, der, timeout_seconds=5.0)
            if self.chance.random() >= ANSWERS_LOST and not is_unavailable(answer):
                return answer
        return None


@dataclass
class Population:
    """Base stations that enrol and renew, so many at the same time, until they are told to end."""

    site: Site
    lanes: int
    pause_seconds: float
    stations: list[BaseStation] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Let them live for as long as the block lasts; then each ends what it has begun."""
        async with asyncio.TaskGroup() as group:
            for lane in range(self.lanes):
                group.create_task(self._live(lane))
            yield
            await self.site.mend()
            self.over.set()

    async def _live(self, lane: int) -> None:
        chance, mine = random.Random(f"{self.site.seed} {lane}"), list[BaseStation]()
        while not self.over.is_set():
            if mine and chance.random() < 0.4:
                await chance.choice(mine).obtain(BodyType.kur)
                self.site.counts["renewals"] += 1
            else:
                station = self._new(f"enb-{lane}-{len(mine)}", chance)
                await station.obtain(BodyType.ir)
                self.site.counts["enrolments"] += 1
                mine.append(station)
                self.stations.append(station)
            await asyncio.sleep(chance.random() * self.pause_seconds)

    def _new(self, serial: str, chance: random.Random) -> BaseStation:
        identity = DeviceIdentity(cmp_credential(self.site.vendor.device(serial)), self.site.trust)
        polls, implicit = chance.random() < 0.6, chance.random() < 0.2
        return BaseStation(serial, self.site, chance, identity, polls, implicit)


# --- the whole ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def chaos_site(
    directory: Path, vendor: VendorPKI, seed: int, *, store: str, confirm_seconds: int
) -> AsyncIterator[Site]:
    """Run one.

    Args:
        store: One of `STORES`.
        confirm_seconds: How long certConf is awaited.
    """
    async with AsyncExitStack() as stack:
        kept = _store(stack, directory, store)
        ways: dict[str, FaultyWay] = {}
        url = kept.url
        if isinstance(kept, RedisServer):
            way = FaultyWay(lambda: kept.port, random.Random(f"{seed} Redis"), 0.01, 0.2, 1.0)
            ways["Redis"] = await stack.enter_async_context(way)
            url = f"redis://127.0.0.1:{way.own_port}/0"
        config = make_setup(
            directory / "setup", vendors={"acme": vendor}, redis_url=url, implicit_confirm="relay"
        )
        edit(config, f'"{url}"\n', f'"{url}"\nredis_timeout_seconds = 0.5\n')
        edit(config, "[ca]\n", f"[ca]\nconfirm_wait_seconds = {confirm_seconds}\n")
        waiting = "wait_after_seconds = 0.7\ncheck_after_seconds = 1\n"
        edit(config, "[endpoints.ran]\n", f"[endpoints.ran]\n{waiting}")
        ca = CAProcess(config)
        stack.callback(ca.kill)
        await asyncio.to_thread(ca.start)
        stack.push(ca.__exit__)
        to_ca = FaultyWay(lambda: ca.port, random.Random(f"{seed} CA"), 0.15, 1.0, 4.0)
        ways["CA"] = await stack.enter_async_context(to_ca)
        upstream = http_upstream(
            f"http://127.0.0.1:{to_ca.own_port}/.well-known/cmp",
            replays_repeats=True,
            unconfirmed="revoke",
            deadline_seconds=3.0,
            connect_timeout_seconds=2.0,
        )
        set_upstream(config, upstream)
        gateways = []
        for number in range(2):
            clock_path = directory / f"clock-{number}"
            set_clock(clock_path, 0.0)
            gateways.append(GatewayProcess(config, clock_path=clock_path))
            stack.callback(gateways[-1].kill)
            await asyncio.to_thread(gateways[-1].start)
            stack.push(gateways[-1].__exit__)
        trust = operator_trust(*load_certificates(config.parent / "operator" / "root.pem", "root"))
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Site(gateways, ca, kept, vendor, trust, session, seed, ways)


def _store(
    stack: AsyncExitStack, directory: Path, store: str
) -> RedisServer | SentinelGroup | ClusterGroup:
    if store == "sentinel":
        return stack.enter_context(sentinel_group(directory / "redis"))
    if store == "cluster":
        return stack.enter_context(cluster_group(directory / "redis"))
    redis = RedisServer(directory, persistent=True, options=("--appendfsync", "always"))
    redis.start()
    stack.callback(redis.kill)
    return redis
