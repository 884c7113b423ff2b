"""The benchmark runs and says what it promises; how fast it was is nobody's test."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import ca, capacity
from tests.bench.servers import ROOT
from tests.support.capacity import figure
from tests.support.patience import PATIENCE_SECONDS
from tests.support.redis_server import RedisServer


def test_the_benchmark_prints_its_table_and_writes_the_same_as_json(tmp_path: Path) -> None:
    """A few enrolments with the memory store, both ways of confirmation."""
    target = tmp_path / "bench.json"
    few = ["--enrolments", "12", "--concurrency", "4", "--store", "memory"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench.run", *few, "--json", str(target)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert [row["confirmation"] for row in found["figures"]] == ["certConf", "implicit"]
    for row in found["figures"]:
        assert (row["store"], row["enrolments"]) == ("memory", 12)
        assert row["floor_us"] > 0
        assert row["gateway_cpu_us"] > row["floor_us"]
        assert row["gateway_cpu_us"] > row["inside_floor_us"] > 0
        assert f"{row['ratio']:.2f}" in result.stdout


def test_two_versions_are_compared_in_one_run(tmp_path: Path) -> None:
    """This version with itself, in another place; the store is the one that both share a server of."""
    shutil.copytree(ROOT / "ra_gateway", tmp_path / "old" / "ra_gateway")
    target = tmp_path / "bench.json"
    few = ["--pairs", "1", "--rounds", "2", "--enrolments", "4", "--store", "redis"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.versions", "--against", str(tmp_path / "old")),
            *(*few, "--json", str(target)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(target.read_text())["figures"]
    assert (row["store"], row["rounds"]) == ("redis", 2)
    assert row["ratio"] == pytest.approx(row["new_us"] / row["old_us"])
    assert min(row["old_us"], row["new_us"]) > row["inside_floor_us"] > 0
    assert f"{row['ratio']:.3f}" in result.stdout


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
