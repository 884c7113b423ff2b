"""The ledger of another CA: whoever would serve it, take it up or look at it says so, and changes nothing there."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app.doctor.ca import examine_ca
from ra_gateway.ca import core
from ra_gateway.ca.ledger.belonging import require_own_file
from ra_gateway.config.reading import load_ca
from ra_gateway.errors import ConfigError, StoreUnavailable
from tests.support.commandline import PASSWORD, run, succeeded
from tests.support.pki import VendorPKI
from tests.support.reloading import serving, serving_ca
from tests.support.setups import edit, keep_in_file, make_setup

LEDGER = 'ledger_path = "ca/ledger.sqlite"'
FOREIGN = "is of another CA: its certificates and CRLs are of CN="


def issue(config: Path) -> None:
    """Have the CA of a configuration issue one certificate."""
    password = config.with_name("password")
    password.touch(mode=0o600)
    password.write_text(f"{PASSWORD}\n")
    out = config.with_name(f"{len(list(config.parent.glob('*.p12')))}.p12")
    options = "--out", out, "--password-file", password, "--config", config
    succeeded("ca", "ra", "issue", "gateway", *options)


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path / "site", vendors={"acme": vendor_pki})


@pytest.fixture
def other(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """Configuration of another CA, which has issued something."""
    found = make_setup(tmp_path / "other", vendors={"acme": vendor_pki})
    issue(found)
    return found


@pytest.fixture
def confused(config: Path, other: Path) -> Path:
    """A configuration whose CA has the ledger of the other one."""
    edit(config, LEDGER, 'ledger_path = "../other/ca/ledger.sqlite"')
    return config


def rows(config: Path) -> list[str]:
    """All that a ledger has."""
    with closing(sqlite3.connect(config.parent / "ca" / "ledger.sqlite")) as database:
        return list(database.iterdump())


@pytest.mark.parametrize("kind", [serving, serving_ca])
async def test_it_is_not_served(confused: Path, other: Path, kind: Callable[..., Any]) -> None:
    before = rows(other)
    with pytest.raises(ConfigError, match=FOREIGN):
        async with kind(confused):
            pass
    assert rows(other) == before


async def test_one_on_a_server_is_not_served(config: Path, other: Path, postgres_url: str) -> None:
    """It is looked at when it is opened, before anything is written there; the doctor says so, too."""
    await asyncio.to_thread(succeeded, "ca", "backup", other.parent / "dump", "--config", other)
    for file in (other, config):
        keep_in_file(file, LEDGER, "ledger_url_path", postgres_url)
    await asyncio.to_thread(succeeded, "ca", "migrate", "--config", other)
    await asyncio.to_thread(succeeded, "ca", "restore", other.parent / "dump", "--config", other)
    with pytest.raises(ConfigError, match=FOREIGN):
        async with serving_ca(config):
            pass
    found = [row for row in await examine_ca(load_ca(config)) if FOREIGN in row.came_back]
    assert [(row.verdict, row.setting) for row in found] == [("fault", "ledger")]


def lines(*command: str | Path) -> list[str]:
    """What a command says that has to refuse."""
    ended = run(*command)
    assert ended.exit_code == 2
    return ended.stderr.splitlines()


def test_check_config_says_so(confused: Path, other: Path) -> None:
    """Of a gateway, of a CA alone; and before a reload."""
    before = sorted(other.parent.joinpath("ca").iterdir())
    for command in ("check-config", "reload"):
        (told,) = lines(command, "--config", confused)
        assert told.startswith(f"ca.ledger_path: {FOREIGN}")
        assert "with all of retired/" in told
    assert sorted(other.parent.joinpath("ca").iterdir()) == before


def test_the_doctor_says_so(confused: Path) -> None:
    """Once, whether the CA is asked or not."""
    found = json.loads(run("doctor", "--config", confused, "--json").stdout)
    told = [row for row in found if FOREIGN in row["came_back"]]
    assert [(row["verdict"], row["setting"]) for row in told] == [("fault", "ca.ledger_path")]


async def test_a_reload_does_not_take_up_another_ca(config: Path, other: Path) -> None:
    """Somebody has put its keys and certificates into the directory."""
    await asyncio.to_thread(issue, config)
    async with serving_ca(config) as site:
        for file in other.parent.joinpath("ca").iterdir():
            if file.suffix in {".pem", ".key"}:
                shutil.copy(file, config.parent / "ca" / file.name)
        with pytest.raises(ConfigError, match=FOREIGN):
            await site.service.reload()


async def test_its_own_ledger_stays_its_own(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, and with what issuing CAs issued that were replaced since, below a root that was replaced, too."""
    async with serving_ca(config):
        pass
    await asyncio.to_thread(issue, config)
    directory = config.parent / "ca"
    for command in ("roll-issuing", "roll-root"):
        await asyncio.to_thread(succeeded, "ca", command, directory)

    async def down(*_: object) -> None:
        raise StoreUnavailable("down")

    async with serving_ca(config) as site:
        monkeypatch.setattr(core, "require_own_ledger", down)
        await site.service.reload()  # which has no need to look at it again


def test_looking_at_a_ledger_that_is_not_there_makes_none(tmp_path: Path) -> None:
    """SQLite would make it, with the mode of the process: whoever then serves it refuses it."""
    require_own_file(tmp_path / "ledger.sqlite", ["issuer"])
    assert list(tmp_path.iterdir()) == []
