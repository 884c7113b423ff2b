"""The audit trail with many records: what a search takes in a small and in a large one, and what verifying takes.

python -m tests.bench.audit [--records 1000000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from ra_gateway.audit.appending import append
from ra_gateway.audit.database import SQLiteAudit
from ra_gateway.audit.records import Record
from ra_gateway.audit.searching import Found, Query, search
from ra_gateway.audit.verifying import verify

SMALL = 10_000
_BATCH = 5_000
_PER_DEVICE = 10
"""Records of one base station: an enrolment and a half."""


def record(number: int) -> Record:
    """Return a record as an enrolment leaves it."""
    device = number // _PER_DEVICE
    detail = {
        "transaction_id": f"{device:032x}",
        "endpoint": "ran",
        "peer": "192.0.2.1",
        "body_type": "ir",
        "outcome": "refused" if number % 1000 == 0 else "issued",
        "domain": "acme",
        "signer": f"CN=SN-{device:07},O=Acme",
        "signer_fingerprint": f"{device:064x}",
        "serial_number": f"{device:x}",
        "stages_ms": "decode=0.10 authenticate=1.20 authorize=0.90 ca=12.00 respond=2.00",
        "node": "gw1.example.net:4711",
    }
    if number % 1000 == 0:
        detail["rule"] = f"R{number // 1000 % 100}"
    subject = f"CN=enb-{device}.ran.example.net,O=Example"
    return Record(1_700_000_000_000 + 10 * number, detail["signer"], "message", subject, detail)


def newest(database: SQLiteAudit, query: Query) -> list[Found]:
    """Return the newest hundred that fit."""
    return list(islice(search(database, query, newest_first=True), 100))


def timed_ms(work: Callable[[], object]) -> float:
    """Return what something takes, the best of five."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took) * 1000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory(prefix="ra-bench-") as directory:
        path = Path(directory) / "audit.sqlite"
        database = SQLiteAudit(path)
        rows: dict[str, list[float]] = {}
        written, took = 0, 0.0
        for until in (SMALL, records):
            while written < until:
                some = [record(number) for number in range(written, min(written + _BATCH, until))]
                began = time.process_time()
                database.write(lambda connection, some=some: append(connection, some))  # type: ignore[misc]
                took += time.process_time() - began
                written += len(some)
            device = written // _PER_DEVICE // 2
            for name, query in {
                "transaction": Query(transaction_id=f"{device:032x}"),
                "device": Query(device=f"CN=SN-{device:07},O=Acme"),
                "device, beginning": Query(device=f"CN=SN-{device:07}*"),
                "serial number": Query(serial_number=f"{device:x}"),
                "rule": Query(rule="R7"),
                "ten seconds": Query(since=1_700_000_010_000, until=1_700_000_020_000),
                "newest hundred": Query(),
            }.items():
                ms = timed_ms(partial(newest, database, query))
                rows.setdefault(name, []).append(ms)
        print(f"{'search, ms':20} {SMALL:>10} {records:>10} records")
        for name, figures in rows.items():
            print(f"{name:20} {figures[0]:10.2f} {figures[1]:10.2f}")
        began = time.perf_counter()
        found = verify(database, {})
        verified = time.perf_counter() - began
        print(
            f"append: {took / written * 1e6:.0f} us of CPU a record, {path.stat().st_size / written:.0f} octets"
        )
        print(f"verify: {verified:.1f} s, {len(found.findings)} findings")
        database.close()


if __name__ == "__main__":
    main()
