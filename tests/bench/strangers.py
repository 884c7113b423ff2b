"""What a stranger costs: CPU, memory and log for each shape of hostile message, at each listener.

python -m tests.bench.strangers [--shapes REGEX] [--count N] [--flood N] [--json FILE]

Every message is handled in this process, from its octets to the answer's, as a listener has it done, and is another
one than those before, so that nothing remembered helps. What is measured is the CPU time of the whole process, helper
threads included. Then as many different small ones of all shapes as `--flood` says, and whether memory grows.

On a machine that others share, the same work takes up to twice as long in one minute as in another. So what is above
the goal in one round is measured again in further ones, and its best round counts: what disturbs only ever adds.

Exit status 1 if anything is above the goal: 5 ms of CPU, 4 kB of log, memory flat.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import ctypes
import gc
import hashlib
import io
import json
import re
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import uvloop
from multidict import CIMultiDict

from ra_gateway import logs
from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.core import BundledCA
from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.ocsp import OCSPResponder, OCSPSettings
from ra_gateway.ca.records import EndEntity
from ra_gateway.ca.status import CAStatus
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.logs import LogSink
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.server.listener import Refusal
from ra_gateway.server.status import StatusListener
from tests.support.credentials import cmp_certificate
from tests.support.desk import Clock, Desk, open_desk
from tests.support.harness import make_gateway
from tests.support.hostile import (
    INSIDE,
    MAX_OCTETS,
    SEARCHED,
    SHAPES,
    VENDORS,
    Facing,
    Sending,
    ocsp_requests,
    paths,
)
from tests.support.pki import make_root
from tests.support.status import issuing_ca, ocsp_signer
from tests.vectors import cast
from tests.vectors.book import AT, Configuration, make_world

GOAL_MS: Final = 5.0
GOAL_LOG_OCTETS: Final = 4096
GOAL_GROWTH_OCTETS: Final = 8 * 1024 * 1024
"""Of the process, from one half of a flood to the other: caches may fill, and the allocator keeps some."""

_ROUNDS: Final = 10

_LONGEST_SECONDS: Final = 1.0
"""Of one shape at one listener; no further messages then."""

_REMEMBERED: Final = 8
"""Messages after which memory is looked at."""

_SMALL_OCTETS: Final = 3000
_LINE_OCTETS: Final = 8190
"""Of a request line: aiohttp takes no longer one."""

Post = Callable[[Any, str], Awaitable[object]]
"""Has something handled, from a peer."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Somebody who is posted to.

    Args:
        post: Handles what a shape makes.
        shapes: What is posted, by name, made from a number and a size.
    """

    name: str
    post: Post
    shapes: Mapping[str, Callable[[int, int], Any]]


@dataclass(slots=True)
class Row:
    """What messages of one shape cost at one listener.

    Args:
        octets: Of a message, or of a request target.
        cpu_ms: Median of a round, the best one.
        kept_octets: Of memory, for each message; None where they take too long to try.
        log_octets: The most that one wrote.
    """

    listener: str
    shape: str
    octets: int
    cpu_ms: float
    kept_octets: int | None
    log_octets: int

    @property
    def above(self) -> list[str]:
        """What is above the goal."""
        found = []
        if self.cpu_ms > GOAL_MS:
            found.append(f"{self.cpu_ms:.1f} ms at {self.listener}")
        if self.log_octets > GOAL_LOG_OCTETS:
            found.append(f"{self.log_octets} octets of log at {self.listener}")
        return found


class Log(io.TextIOBase):
    """Standard error that counts."""

    def __init__(self) -> None:
        self.octets = 0

    def write(self, text: str) -> int:
        self.octets += len(text.encode("utf-8", "backslashreplace"))
        return len(text)


# --- listeners --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listeners() -> AsyncIterator[list[Listener]]:
    """Open all of them, with the keys of the vectors and clocks that stand still."""
    device, relay = Facing("acme-root", "device"), Facing("operator-root", "operator-ra")
    plain = Configuration()
    open_to_all = Configuration(
        strictness="lenient", vendors=("acme", "legacy", "lattice"), mac=True, local_ra=True
    )
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ra = await stack.enter_async_context(_desk(directory / "ra.sqlite"))
        domain = TrustDomain("acme", DomainKind.vendor, (cast.member("acme-root").certificate,))
        client = await stack.enter_async_context(
            _desk(directory / "client.sqlite", ClientMode({"acme": domain}, "cn"))
        )
        yield [
            Listener("gateway", _gateway(plain), _messages(device)),
            Listener("gateway mac,ra", _gateway(open_to_all), _messages(device)),
            Listener("gateway vendors", _gateway(plain, VENDORS), _searched(_messages(device))),
            Listener("ca ra", _ca(ra.ca, Mode.ra), _messages(relay)),
            Listener("ca client", _ca(client.ca, Mode.client), _messages(device)),
            await _status(ra),
        ]


def _messages(facing: Facing) -> dict[str, Callable[[int, int], Any]]:
    def bound(make: Callable[[Sending], bytes]) -> Callable[[int, int], bytes]:
        return lambda number, octets: make(Sending(facing, number, octets))

    return {
        **{what: bound(make) for what, make in SHAPES.items()},
        **{f"insider: {what}": bound(make) for what, make in INSIDE.items()},
    }


def _searched(
    messages: Mapping[str, Callable[[int, int], Any]],
) -> dict[str, Callable[[int, int], Any]]:
    return {what: make for what, make in messages.items() if SEARCHED.search(what)}


def _gateway(configuration: Configuration, vendors: int = 0) -> Post:
    world = make_world(configuration)
    endpoint = _with_vendors(world.endpoint, vendors) if vendors else world.endpoint
    gateway = make_gateway(endpoint, world.operator, world.store, world.clock, [], sink=LogSink())

    async def post(der: bytes, peer: str) -> object:
        return await gateway.handle(der, endpoint=endpoint.name, peer=peer)

    return post


def _with_vendors(endpoint: Endpoint, count: int) -> Endpoint:
    """Put others before the vendor of an endpoint: every fourth below the same root, the rest below their own."""
    known = endpoint.vendors[-1]
    others = tuple(
        replace(
            known,
            name=f"vendor{number}",
            anchors=known.anchors if number % 4 == 3 else (_anchor(number),),
        )
        for number in range(count - 1)
    )
    identities = {item.name: endpoint.identities[known.name] for item in (*others, known)}
    return replace(endpoint, vendors=(*others, known), identities=identities)


def _anchor(number: int) -> Certificate:
    return cmp_certificate(make_root(f"Vendor {number}").certificate)


def _ca(ca: BundledCA, mode: Mode) -> Post:
    async def post(der: bytes, peer: str) -> object:
        return await ca.handle(der, mode=mode)

    return post


@asynccontextmanager
async def _desk(path: Path, client: ClientMode | None = None) -> AsyncIterator[Desk]:
    registered = (cast.member("operator-ra").as_entity(), cast.member("local-ra").as_entity())
    async with open_desk(
        cast.operator(), path, registered=registered, clock=Clock(AT), client=client
    ) as desk:
        if client is not None:
            entity = EndEntity("enb1", "CN=enb1", (), vendor="acme", identity="ENB-1")
            await desk.ledger.registry.add_entity(entity, "bench", AT)
        yield desk


@dataclass(slots=True)
class Asked:
    """An HTTP request as the listener's `respond` has it, without a connection."""

    method: str
    raw_path: str
    octets: bytes = b""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    content_length: int | None = None
    if_none_match: None = None
    if_modified_since: None = None

    @property
    def content(self) -> Asked:
        """Itself: it has arrived."""
        return self

    def is_eof(self) -> bool:
        """It has arrived."""
        return True

    def read_nowait(self) -> bytes:
        """Return the body."""
        return self.octets

    def __len__(self) -> int:
        return len(self.raw_path) + len(self.octets)


async def _status(desk: Desk) -> Listener:
    ca = issuing_ca(desk.operator.issuing)
    publisher = CRLPublisher((ca,), desk.ledger, desk.clock, CRLSettings())
    responder = OCSPResponder((ocsp_signer(ca),), desk.ledger, desk.clock, OCSPSettings())
    root = cast.member("operator-root").certificate
    handler = CAStatus(root, (ca,), publisher, responder)
    listener = StatusListener(handler, host="127.0.0.1", port=0, clock=desk.clock)

    async def post(asked: Any, peer: str) -> object:
        try:
            return await listener.respond(asked, peer)
        except Refusal as refusal:
            return refusal

    hashed = (
        hashlib.sha1(ca.certificate.subject_der, usedforsecurity=False).digest(),
        ca.certificate.subject_key_identifier or b"",
    )
    found: dict[str, Callable[[int, int], Any]] = {}
    usual = CIMultiDict({"Content-Type": "application/ocsp-request"})
    for limit, kind in ((listener.max_body_bytes, ""), (MAX_OCTETS, " of 61 kB")):
        for what, make in ocsp_requests(hashed, limit):
            found[f"OCSP{kind}: {what}"] = lambda n, _, make=make: _posted(make(n), usual)  # type: ignore[misc]
    for what, make in ocsp_requests(hashed, _LINE_OCTETS * 3 // 4 - 20):
        found[f"OCSP by GET: {what}"] = lambda n, _, make=make: _by_url(make(n))  # type: ignore[misc]
    for what, target in paths(_LINE_OCTETS):
        found[f"path: {what}"] = lambda n, _, target=target: Asked("GET", target(n))  # type: ignore[misc]
    return Listener("status", post, found)


def _posted(der: bytes, headers: CIMultiDict[str]) -> Asked:
    return Asked("POST", "/ocsp", der, headers, len(der))


def _by_url(der: bytes) -> Asked:
    plain = base64.b64encode(der).decode()
    escaped = quote(plain, safe="")
    return Asked("GET", "/ocsp/" + (escaped if len(escaped) < _LINE_OCTETS - 20 else plain))


# --- measuring --------------------------------------------------------------------------------------------------


def peer_of(number: int) -> str:
    """Return another address for each number."""
    return f"10.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}.{number & 0xFF}"


async def measure(
    listener: Listener, what: str, log: Log, count: int, *, first: int = 1, memory: bool = True
) -> Row:
    """Post different messages of one shape and say what they cost; their numbers begin with the first."""
    make = listener.shapes[what]
    took: list[float] = []
    log_octets = size = 0
    for number in range(first, first + count):
        sent, log.octets = make(number, MAX_OCTETS), 0
        before = time.process_time()
        await listener.post(sent, peer_of(number))
        took.append(time.process_time() - before)
        log_octets, size = max(log_octets, log.octets), max(size, len(sent))
        if sum(took) > _LONGEST_SECONDS:
            break
    cpu_ms = statistics.median(took) * 1000
    kept = None
    if memory and cpu_ms * _REMEMBERED < _LONGEST_SECONDS * 1000:
        kept = await kept_octets(listener, make)
    return Row(listener.name, what, size, cpu_ms, kept, log_octets)


async def kept_octets(listener: Listener, make: Callable[[int, int], Any]) -> int:
    """Return the memory that is kept of one message, on average over different ones of full size."""
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(_REMEMBERED):
            await listener.post(make(1000 + number, MAX_OCTETS), peer_of(number))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] // _REMEMBERED
    finally:
        tracemalloc.stop()


@dataclass(frozen=True, slots=True)
class Flood:
    """What many messages left behind.

    Args:
        half_octets, end_octets: Resident memory of the process after half of them, and after all.
    """

    count: int
    half_octets: int
    end_octets: int

    @property
    def growth_octets(self) -> int:
        """From the half to the end."""
        return self.end_octets - self.half_octets


async def flood(everyone: Sequence[Listener], rows: Sequence[Row], count: int) -> Flood:
    """Post small messages of all shapes that are not too dear, each another one, in turn to every listener."""
    cheap = {(row.listener, row.shape) for row in rows if row.cpu_ms < 4 * GOAL_MS}
    pairs = [
        (listener, make)
        for listener in everyone
        for what, make in listener.shapes.items()
        if (listener.name, what) in cheap
    ]
    if not pairs or not count:
        return Flood(0, 0, 0)
    half = 0
    for number, (listener, make) in enumerate(islice(cycle(pairs), count)):
        await listener.post(make(10_000 + number, _SMALL_OCTETS), peer_of(number))
        if number == count // 2:
            half = resident_octets()
    return Flood(count, half, resident_octets())


def resident_octets() -> int:
    """Return the resident memory of this process, once all that is free was given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


# --- the table --------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table: a shape each, and the CPU milliseconds at every listener that was tried."""
    width = max((len(row.shape) for row in rows), default=5)
    heads = " ".join(f"{name:>16}" for name in names)
    yield f"{'shape':<{width}} {'octets':>6} {heads} {'kept kB':>8} {'log':>7}"
    by_shape: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_shape.setdefault(row.shape, {})[row.listener] = row
    for shape, found in by_shape.items():
        cells = " ".join(_cell(found.get(name)) for name in names)
        kept = [row.kept_octets for row in found.values() if row.kept_octets is not None]
        memory = f"{max(kept) / 1000:>8.1f}" if kept else f"{'?':>8}"
        mark = "  ABOVE" if any(row.above for row in found.values()) else ""
        octets = max(row.octets for row in found.values())
        log = max(row.log_octets for row in found.values())
        yield f"{shape:<{width}} {octets:>6} {cells} {memory} {log:>7}{mark}"


def _cell(row: Row | None) -> str:
    if row is None:
        return " " * 16
    return f"{row.cpu_ms:>15.2f}" + ("!" if row.cpu_ms > GOAL_MS else " ")


async def run(options: argparse.Namespace, log: Log) -> tuple[list[Row], list[str], Flood]:
    """Measure whatever is asked for."""
    wanted = re.compile(options.shapes)
    async with listeners() as everyone:
        for listener in everyone:  # what is loaded and connected at first use
            first = next(iter(listener.shapes.values()))
            for number in range(5):
                await listener.post(first(5000 + number, MAX_OCTETS), peer_of(number))
        rows = []
        for listener in everyone:
            for what in filter(wanted.search, listener.shapes):
                rows.append(await measure(listener, what, log, options.count))
                # Beside the log, which is counted: some shapes may take their time.
                print(f"{listener.name}: {what}: {rows[-1].cpu_ms:.2f} ms", file=sys.__stderr__)
        for further in range(1, _ROUNDS):
            await asyncio.sleep(any(row.cpu_ms > GOAL_MS for row in rows))
            for index, row in enumerate(rows):
                if row.cpu_ms > GOAL_MS:
                    listener = next(item for item in everyone if item.name == row.listener)
                    again = await measure(
                        listener, row.shape, log, options.count, first=100 * further, memory=False
                    )
                    rows[index] = replace(row, cpu_ms=min(row.cpu_ms, again.cpu_ms))
        flooded = await flood(everyone, rows, options.flood)
    return rows, [listener.name for listener in everyone], flooded


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return what the process is to exit with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="", help="regular expression: only these")
    parser.add_argument("--count", type=int, default=7, help="messages of each shape")
    parser.add_argument("--flood", type=int, default=100_000, help="small ones in the end")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    log = Log()
    logs.configure("json", "info")
    with (
        contextlib.redirect_stderr(log),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        rows, names, flooded = runner.run(run(options, log))
    print(
        "CPU milliseconds of one message, at each listener, with ! where they are above the goal; memory kept and log"
        " written, the most\n"
    )
    for line in table(rows, names):
        print(line)
    above = [f"{row.shape}: {what}" for row in rows for what in row.above]
    if flooded.count:
        print(
            f"\n{flooded.count:,} small ones: {flooded.half_octets / 1e6:.1f} MB after half of them,"
            f" {flooded.end_octets / 1e6:.1f} MB in the end"
        )
        if flooded.growth_octets > GOAL_GROWTH_OCTETS:
            above.append(f"memory grew by {flooded.growth_octets / 1e6:.1f} MB")
    if options.json is not None:
        found = {"rows": [asdict(row) for row in rows], "flood": asdict(flooded)}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(
        f"\ngoal: {GOAL_MS:g} ms, {GOAL_LOG_OCTETS} octets of log, memory flat; above it: {len(above)}"
    )
    for what in above:
        print(f"  {what}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
