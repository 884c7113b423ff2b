"""The benchmark runs and says what it promises; how fast it was is nobody's test."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench import ca, capacity, run
from tests.support.capacity import figure
from tests.support.commands import Command
from tests.support.redis_server import RedisServer


@contextmanager
def begun_quickly(*arguments: str, port: int, log: Path) -> Iterator[int]:
    """A server as the benchmark has them, but for what it takes to import one."""
    process = Command(*arguments, output_path=log)
    try:
        run.await_port(port, process, log)
        yield process.pid
        process.send_signal(15)
        assert process.wait() == 0, log.read_text()
    finally:
        process.kill()


def test_the_benchmark_prints_its_table_and_writes_the_same_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few enrolments with the memory store, both ways of confirmation."""
    target = tmp_path / "bench.json"
    few = ["--enrolments", "12", "--concurrency", "4", "--store", "memory"]
    monkeypatch.setattr(sys, "argv", ["run", *few, "--json", str(target)])
    monkeypatch.setattr(run, "server", begun_quickly)
    run.main()
    printed = capsys.readouterr().out
    found = json.loads(target.read_text())
    assert [row["confirmation"] for row in found["figures"]] == ["certConf", "implicit"]
    for row in found["figures"]:
        assert (row["store"], row["enrolments"]) == ("memory", 12)
        assert row["floor_us"] > 0
        assert row["gateway_cpu_us"] > row["floor_us"]
        assert f"{row['ratio']:.2f}" in printed


def test_the_cas_benchmark_prints_a_row_for_each_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hundred issuances on SQLite and on PostgreSQL."""
    monkeypatch.setattr(sys, "argv", ["ca", "--count", "100", "--postgres"])
    ca.main()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["SQLite", "PostgreSQL"]
    assert all("floor" in row for row in rows)


async def test_what_base_stations_leave_behind_is_what_the_page_says(
    tmp_path: Path, own_redis_server: RedisServer
) -> None:
    """Octets in Redis, in the ledger and on the wire; the ledger grows by pages, which few devices do not fill."""
    site = capacity.Site.make(tmp_path / "site", own_redis_server.url)
    found = await capacity.measure(site, 16)
    assert len(found) == 9
    for name, octets in found.items():
        share = 0.35 if name.startswith("ledger") else 0.15
        assert octets / 1000 == pytest.approx(figure(name), rel=share), name
