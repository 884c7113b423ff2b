"""Whom a listener believes, and its TLS, as the configuration file may have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ra_gateway.config.reading import parse
from ra_gateway.errors import ConfigError
from tests.support.configurations import written

CA = '[ca]\ndirectory_path = "ca"\nledger_path = "ledger.sqlite"'
TRUSTED = 'trusted_proxies = ["192.0.2.7", "10.0.0.0/8", "2001:db8::/32"]'


@pytest.mark.parametrize("told", ['proxy_protocol = "on"', 'forwarded_for = "on"'])
@pytest.mark.parametrize("table", ["server", "ca.server", "ca.status"])
def test_who_is_believed_and_how_he_tells(table: str, told: str) -> None:
    """Each takes the other."""

    def parsed(*lines: str) -> object:
        settings = "\n".join(lines)
        text = (
            written(CA, server=f"[server]\n{settings}")
            if table == "server"
            else written(f"{CA}\n[{table}]\n{settings}")
        )
        return parse(text, directory=Path("/nowhere"), check_files=False)

    assert parsed(TRUSTED, told)
    for lines, key in (((told,), told.split()[0]), ((TRUSTED,), "trusted_proxies")):
        with pytest.raises(ConfigError) as refused:
            parsed(*lines)
        assert [problem.path for problem in refused.value.problems] == [f"{table}.{key}"]


@pytest.mark.parametrize(
    "network, todo",
    [
        ("balancer.example.net", "192.0.2.0/24"),
        ("192.0.2.7/24", '"192.0.2.0/24"'),
        ("192.0.2.0/33", "192.0.2.0/24"),
        ("0.0.0.0/0", "Name those that you trust"),
        ("::ffff:192.0.2.7", "Write it as IPv4"),
        ("::ffff:0:0/96", "Write it as IPv4"),
        ("::/0", "Name those that you trust"),
        ("fe80::1%eth0", "192.0.2.0/24"),
    ],
)
def test_what_is_no_network_of_a_proxy(network: str, todo: str) -> None:
    """Everybody, above all."""
    server = f'[server]\nproxy_protocol = "on"\ntrusted_proxies = ["{network}"]'
    with pytest.raises(ConfigError) as refused:
        parse(written(server=server), directory=Path("/nowhere"), check_files=False)
    (problem,) = refused.value.problems
    assert problem.path == "server.trusted_proxies[0]"
    assert todo in problem.todo


@pytest.mark.parametrize("table", ["server", "management", "ca.server"])
def test_tls_takes_a_certificate_and_its_key(table: str, tmp_path: Path) -> None:
    """The key is its owner's alone."""
    for name in ("tls.pem", "tls.key"):
        (tmp_path / name).write_text("material")
        (tmp_path / name).chmod(0o644)
    text = written(f'{CA}\n[{table}.tls]\ncertificate_path = "tls.pem"\n')
    with pytest.raises(ConfigError) as refused:
        parse(text, directory=tmp_path, check_files=False)
    assert [problem.path for problem in refused.value.problems] == [f"{table}.tls.key_path"]
    with pytest.raises(ConfigError) as refused:
        parse(f'{text}key_path = "tls.key"\n', directory=tmp_path, check_files=True)
    found = {problem.path: problem.what for problem in refused.value.problems}
    assert "mode 0644" in found[f"{table}.tls.key_path"]
    assert f"{table}.tls.certificate_path" not in found
