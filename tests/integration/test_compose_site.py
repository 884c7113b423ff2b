"""The compose file's site as processes: what setup.sh makes, two gateways, the CA, HAProxy, Redis and PostgreSQL.

The configurations are those of deploy/compose; only addresses and ports are set, as there are no containers here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.support.commands import Command
from tests.support.haproxy import running
from tests.support.openssl import load_certificate, openssl_cmp
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.ports import free_port
from tests.support.printed import to_run

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "deploy" / "compose"


def ready(port: int) -> bool:
    """Ask as the image's HEALTHCHECK does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def service(log: Path, management: int, *command: str | Path) -> Iterator[None]:
    """Run a service until it is ready, and to its end."""
    process = Command(
        *command, "--set", f"management.listen_port={management}",
        "--set", "management.listen_host=127.0.0.1", output_path=log,
    )  # fmt: skip
    try:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not ready(management):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_the_site_of_compose_enrols_a_base_station(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str, postgres_url: str
) -> None:
    """Through HAProxy to either gateway, with a certificate of the CA that setup.sh made."""
    vendor_pki.write(tmp_path)
    bundle = tmp_path / "acme-root.pem"
    bundle.write_bytes((tmp_path / "root.pem").read_bytes())
    site = tmp_path / "site"
    for path, url in (("gateway/redis.url", redis_url), ("ca/ledger.url", postgres_url)):
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(url)
        (site / path).chmod(0o600)
    (tmp_path / "var").mkdir()
    text = (COMPOSE / "ca.toml").read_text()
    assert "/var/lib/ra_gateway/" in text
    (site / "ca/ca.toml").write_text(text.replace("/var/lib/ra_gateway/", f"{tmp_path}/var/"))
    environment = os.environ | {
        "SITE": str(site),
        "RA_GATEWAY": f"{sys.executable} -m ra_gateway",
        "PYTHONPATH": str(ROOT),
    }
    (printed,) = to_run("docs/containers.md", "With compose")
    script, vendor = printed.text.split()
    assert vendor == bundle.name
    for _ in range(2):  # what is there stays
        done = subprocess.run(
            [ROOT / script, bundle],
            env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    ca_port, status_port, ca_management = free_port(), free_port(), free_port()
    ports = [(free_port(), free_port()) for _ in range(2)]
    with ExitStack() as stack:
        stack.enter_context(
            service(
                tmp_path / "ca.log", ca_management,
                "ca", "serve", "--config", site / "ca/ca.toml", "--port", str(ca_port),
                "--set", "ca.server.listen_host=127.0.0.1",
                "--set", "ca.status.listen_host=127.0.0.1",
                "--set", f"ca.status.listen_port={status_port}",
            )
        )  # fmt: skip
        for number, (port, management) in enumerate(ports, 1):
            stack.enter_context(
                service(
                    tmp_path / f"gateway-{number}.log", management,
                    "serve", "--config", site / "gateway/gateway.toml", "--port", str(port),
                    "--set", "server.listen_host=127.0.0.1",
                    "--set", 'server.trusted_proxies=["127.0.0.1"]',
                    "--set", "server.lame_duck_seconds=0",
                    "--set", f"upstreams.ca.url=http://127.0.0.1:{ca_port}/.well-known/cmp",
                    "--set", f'operator.revocation.crl_urls=["http://127.0.0.1:{status_port}/crl/issuing.crl"]',
                )
            )  # fmt: skip
        text = (COMPOSE / "haproxy.cfg").read_text()
        text = text.replace("bind :8080", "bind {bind}").replace(
            " init-addr none resolvers docker", ""
        )
        for number, (port, management) in enumerate(ports, 1):
            text = text.replace(
                f"gateway-{number}:8080 port 9080", f"127.0.0.1:{port} port {management}"
            ).replace(f"gateway-{number}:8080", f"127.0.0.1:{port}")
        balancer = stack.enter_context(running(tmp_path, text))
        for number in range(4):
            name = f"SN-00000{number}"
            vendor_pki.device(name).write(tmp_path, name)
            openssl_cmp(
                "ir",
                server=f"127.0.0.1:{balancer}",
                cert=tmp_path / f"{name}.pem",
                key=tmp_path / f"{name}.key",
                extracerts=tmp_path / "sub.pem",
                trusted=site / "gateway/operator/root.pem",
                subject=f"/O=Example Operator/CN={name}.ran.example.net",
                certout=tmp_path / "new.pem",
                extra_args=("-sans", f"{name}.ran.example.net"),
            ).check()
            subject = load_certificate(tmp_path / "new.pem").subject.rfc4514_string()
            assert subject == f"CN={name}.ran.example.net,O=Example Operator"
    for number in (1, 2):
        log = (tmp_path / f"gateway-{number}.log").read_text()
        assert re.search(r'"event": ?"(ir|certConf)"', log), f"gateway {number} had nothing to do"
        assert '"level": "error"' not in log
