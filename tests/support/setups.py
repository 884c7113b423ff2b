"""Setups on the disk: what `ra-gateway init` writes, and changes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from unittest import mock

from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.cli import setup
from tests.support import empty_ledger
from tests.support.pki import VendorPKI

_BUNDLED: Final = 'kind = "bundled"\n'


def make_setup(
    directory: Path,
    *,
    vendors: Mapping[str, VendorPKI],
    redis_url: str | None = None,
    upstream: str = _BUNDLED,
    implicit_confirm: str = "deny",
    key_kind: str = "p256",
    domain: str | None = None,
) -> Path:
    """Write CA, RA and vendor material and a configuration that any base station may use, or those of a domain.

    Of a vendor only the root is configured: its base stations have to send their sub-CA. The files
    are those of `ra-gateway init` (operator/root.pem, operator/issuing.pem, ra/, ca/), and for each
    vendor NAME/root.pem, NAME/sub.pem and NAME/sub.key.

    Args:
        directory: Without a setup so far; created when it is not there.
        vendors: By name.
        redis_url: Of the store; in memory if absent.
        upstream: Lines of the table of the upstream; see `http_upstream`, `set_upstream`.
        implicit_confirm: "deny" or "relay".
        key_kind: Of CA and RA.
        domain: As `ra-gateway init --domain` has it: the CA keeps to TS 33.310 6.1, and devices to the names that
            their vendor certificates give them.

    Returns:
        Path of gateway.toml; it serves both `GatewayProcess` and `CAProcess`.
    """
    for name, vendor in vendors.items():
        vendor.write(directory / name)
    setup.run_apart(empty_ledger.prepare())
    with mock.patch.object(setup, "open_ledger", _open_ledger):
        config_path = setup.write_setup(
            directory,
            organisation="Example Operator",
            vendors={name: (f"{name}/root.pem", "") for name in vendors},
            domain=domain,
            now=datetime.now(UTC),
            port=0,
            key_kind=key_kind,
            implicit_confirm=implicit_confirm,
        )
    # Many are served at once, and tests of the status listener have a table of their own.
    edit(config_path, "[ca.status]\nlisten_port = 8082\n", "")
    config_path.write_text(config_path.read_text() + "\n[ca.server]\nlisten_port = 0\n")
    set_upstream(config_path, upstream)
    if redis_url is not None:
        edit(config_path, 'kind = "memory"', f'kind = "redis"\nredis_url = "{redis_url}"')
    return config_path


def _open_ledger(path: Path) -> Ledger:
    empty_ledger.put(path)
    return open_ledger(path)


def http_upstream(url: str, **settings: bool | float | str | Sequence[Path]) -> str:
    """Return the lines of an upstream that is reached over HTTP.

    Args:
        settings: Further keys of `CMPHTTPUpstream`; paths as sequences.
    """
    lines = ['kind = "cmp_http"', f"url = {json.dumps(url)}"]
    # JSON of booleans, numbers, strings and lists of strings is TOML as well.
    lines += [f"{key} = {json.dumps(value, default=str)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def set_upstream(config_path: Path, lines: str) -> None:
    """Replace the upstream of a configuration; the next start uses it."""
    text = config_path.read_text()
    head, rest = text.split("[upstreams.bundled]\n")
    config_path.write_text(f"{head}[upstreams.bundled]\n{lines}\n{rest[rest.index('[') :]}")


def keep_to_the_standard(config_path: Path) -> None:
    """Have a configuration's CA issue as TS 33.310 6.1 has it, for names in its own domain."""
    text = re.sub(
        r"(?s)\n# Looser than.*?\[ca\.profiles\.trial\]\n.*?\n\n", "\n", config_path.read_text()
    )
    own = (
        'profile = "ne_ipsec"\ndomains = ["ran.example.net"]\norganisations = ["Example Operator"]'
    )
    status = "\n[ca.status]\nlisten_port = 0\n"
    config_path.write_text(text.replace('profile = "trial"', own) + status)


def edit(config_path: Path, old: str, new: str) -> None:
    """Replace a text that occurs exactly once in a configuration."""
    text = config_path.read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {config_path}"
    config_path.write_text(text.replace(old, new))


def keep_in_file(config_path: Path, old: str, setting: str, content: str) -> None:
    """Replace a text by a setting that names a private file, which is written beside the configuration."""
    file = config_path.with_name("url")
    file.touch(0o600)
    file.write_text(content)
    edit(config_path, old, f'{setting} = "{file.name}"')


def let_vendors(config_path: Path, *body_types: str) -> None:
    """Let the devices of every vendor ask for a first certificate by these requests."""
    text = config_path.read_text()
    row = f"body_types = {json.dumps(body_types)}\n"
    config_path.write_text(re.sub(r"(?m)^(\[vendors\.\w+\]\n)", lambda at: at[1] + row, text))
