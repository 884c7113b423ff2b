"""The compose file: it fits the specification, names files that are here, and hands secrets over as files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.deploy_tools import documents, require_compose
from tests.support.haproxy import SAMPLE, haproxy_path

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
COMPOSE: Final = DEPLOY / "compose"
FILE: Final = COMPOSE / "compose.yaml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (found,) = documents(FILE)
    return found


def test_it_fits_the_specification(tmp_path: Path) -> None:
    """By the schema of the specification, which knows what is none of its keys."""
    require_compose(FILE)
    broken = tmp_path / "compose.yaml"
    broken.write_text(FILE.read_text().replace("read_only: true", "readonly: true"))
    with pytest.raises(AssertionError, match="readonly"):
        require_compose(broken)


def test_it_has_what_a_site_needs(compose: dict[str, Any]) -> None:
    """Two gateways, and everything around them."""
    assert set(compose["services"]) == {
        *("gateway-1", "gateway-2", "haproxy", "ca", "admin"),
        *("redis", "postgres", "prometheus", "grafana"),
    }


def test_every_service_is_shut_in(compose: dict[str, Any]) -> None:
    """Nothing writes to its image, has privileges, or carries a secret in its environment or its command."""
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"ra-gateway|[a-z/]+:v?\d[\w.-]+", service["image"]), name
        words = [*service.get("environment", {}).items(), *service.get("command", ())]
        assert [
            word for word in words if re.search("pass|secret", str(word), re.I)
            and not str(word[0]).endswith("_FILE")
        ] == [], name  # fmt: skip


def test_ledger_and_transactions_are_reached_by_those_alone_who_need_them(
    compose: dict[str, Any],
) -> None:
    """By networks that lead nowhere else."""

    def those_in(network: str) -> set[str]:
        return {
            name for name, service in compose["services"].items() if network in service["networks"]
        }

    assert those_in("ledger") == {"ca", "admin", "postgres"}
    assert those_in("back") == {"gateway-1", "gateway-2", "ca", "admin", "redis"}
    assert compose["networks"]["back"]["internal"] is True
    assert compose["networks"]["ledger"]["internal"] is True
    published = {
        name: item["ports"] for name, item in compose["services"].items() if "ports" in item
    }
    assert published == {
        "haproxy": ["8080:8080"],
        "ca": ["8082:8082"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_files_that_it_mounts_are_here(compose: dict[str, Any]) -> None:
    """Or are made by setup.sh, in site/."""
    mounted = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
    } | {secret["file"] for secret in compose["secrets"].values()}
    missing = {path for path in mounted if "/" in path and not (COMPOSE / path).exists()}
    made = {path for path in missing if path.startswith("./site")}
    assert missing == made
    script = (COMPOSE / "setup.sh").read_text()
    assert [path for path in made if Path(path).name not in script] == []


def test_the_gateways_take_addresses_of_the_balancer_alone(compose: dict[str, Any]) -> None:
    """Its address is fixed, outside of what others are given."""
    front = compose["services"]["haproxy"]["networks"]["front"]
    assert (
        f'trusted_proxies = ["{front["ipv4_address"]}"]' in (COMPOSE / "gateway.toml").read_text()
    )
    assert compose["networks"]["front"]["ipam"]["config"] == [
        {"subnet": "172.30.10.0/24", "ip_range": "172.30.10.128/25"}
    ]


def test_haproxy_takes_its_configuration() -> None:
    """It is the sample of deploy/, but for names."""
    done = subprocess.run(
        [haproxy_path(), "-c", "-f", COMPOSE / "haproxy.cfg"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def told(path: Path) -> list[str]:
        lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
        return [
            line
            for line in lines
            if line and not re.match("server |resolvers|nameserver|hold", line)
        ]

    assert [
        line.replace(" init-addr none resolvers docker", "")
        for line in told(COMPOSE / "haproxy.cfg")
    ] == told(SAMPLE)


def test_prometheus_takes_its_configuration(tmp_path: Path, compose: dict[str, Any]) -> None:
    """And scrapes the management port of each gateway and of the CA."""
    shutil.copy(DEPLOY / "prometheus/alerts.yaml", tmp_path)
    shutil.copy(COMPOSE / "prometheus.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    targets = re.findall(r'"([\w-]+):(\d+)"', (COMPOSE / "prometheus.yaml").read_text())
    assert dict(targets) == {"gateway-1": "9080", "gateway-2": "9080", "ca": "9081"}
    assert {name for name, _ in targets} < set(compose["services"])
