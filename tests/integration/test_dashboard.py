"""A real Prometheus scrapes real processes: every query of the dashboard has data, and no scrape is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from ra_gateway.device import client
from ra_gateway.device.errors import EnrollmentFailed
from tests.support.commandline import succeeded
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.ports import free_port
from tests.support.processes import CAProcess, GatewayProcess, ServerProcess
from tests.support.prometheus import Prometheus, scraping
from tests.support.setups import http_upstream, make_setup, set_upstream
from tests.support.stations import Station

DASHBOARD: Final = Path(__file__).resolve().parents[2] / "deploy/grafana/ra_gateway.json"
PANELS: Final[list[dict[str, Any]]] = json.loads(DASHBOARD.read_text())["panels"]
QUERIES: Final = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel.get("targets", ())
}


def filled_in(query: str) -> str:
    """Return a query as Grafana asks it when all processes are chosen."""
    for name, value in (("$__rate_interval", "1m"), ("$job", ".+"), ("$instance", ".+")):
        query = query.replace(name, value)
    assert "$" not in query
    return query


class Fleet:
    """A CA, a gateway that asks it and keeps transactions in Redis, and one with a CA that is away."""

    def __init__(self, directory: Path, vendor: VendorPKI, redis_url: str) -> None:
        self._directory, self._vendor = directory, vendor
        self._config = make_setup(directory, vendors={"acme": vendor}, redis_url=redis_url)
        self._status_port = free_port()
        text = self._config.read_text()
        self._config.write_text(f"{text}\n[ca.status]\nlisten_port = {self._status_port}\n")
        self.processes: list[ServerProcess] = []
        self._count = 0

    def start(self, stack: ExitStack) -> None:
        """Start all three."""
        succeeded("ca", "backup", self._directory / "dump", "--config", self._config)
        ca = stack.enter_context(CAProcess(self._config))
        away = f"http://127.0.0.1:{free_port()}/cmp"
        text = self._config.read_text()
        shared = self._directory / "shared.toml"
        crl = f"http://127.0.0.1:{self._status_port}/crl/issuing.crl"
        revocation = f'[operator.revocation]\nmode = "soft"\ncrl_urls = ["{crl}"]\n'
        shared.write_text(f"{text}\n{revocation}")
        urls = f'kind = "cmp_http"\nurls = ["{away}", "{ca.url}"]\nreplays_repeats = true\n'
        set_upstream(shared, urls + "probe_seconds = 1\n")
        alone = self._directory / "alone.toml"
        alone.write_text(re.sub(r'(?s)kind = "redis".*?\n\n', 'kind = "memory"\n\n', text))
        set_upstream(alone, http_upstream(away))
        self.gateways = [stack.enter_context(GatewayProcess(path)) for path in (shared, alone)]
        self.processes = [ca, *self.gateways]

    @property
    def targets(self) -> list[str]:
        """Where the metrics are."""
        urls = [item.await_event("started")["management"] for item in self.processes]
        return [url.removeprefix("http://") for url in urls]

    async def work(self) -> None:
        """Enrol one base station at each gateway; then ask for what is not there."""
        self._count += 1
        root_path, (shared, alone) = self._directory / "operator/root.pem", self.gateways
        async with client.open_session() as session:
            await Station(f"S{self._count}", self._vendor, root_path).enrol(session, shared)
            with pytest.raises(EnrollmentFailed):
                await Station(f"T{self._count}", self._vendor, root_path).enrol(session, alone)
            for gateway in self.gateways:
                async with session.get(f"http://{gateway.server}/nowhere") as answer:
                    assert answer.status == 404


@pytest.fixture
def fleet(tmp_path: Path, vendor_pki: VendorPKI, redis_url: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        found = Fleet(tmp_path, vendor_pki, redis_url)
        found.start(stack)
        yield found


def has_data(prometheus: Prometheus, query: str) -> bool:
    """Tell whether a query has a number for an answer."""
    return any(item["value"][1] != "NaN" for item in prometheus.query(filled_in(query)))


async def test_every_query_of_the_dashboard(fleet: Fleet) -> None:
    targets = fleet.targets
    with scraping({"ra_gateway": targets[1:], "ra_gateway_ca": targets[:1]}) as prometheus:
        left, give_up_at = dict(QUERIES), time.monotonic() + PATIENCE_SECONDS
        while left:
            assert time.monotonic() < give_up_at, f"no data for {left}"
            await fleet.work()
            left = {name: item for name, item in left.items() if not has_data(prometheus, item)}
        assert [item["value"][1] for item in prometheus.query("up")] == ["1"] * 3
        names = prometheus.query('count by (__name__) ({__name__=~"ra_gateway_.+"})')
        assert len(names) > 40
    assert len(QUERIES) > 60
