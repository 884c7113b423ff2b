"""docs/runbook.md and docs/alerts.md, as they are printed: each command is run, and does what the page says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from ra_gateway import keys
from ra_gateway.app import credential
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.device.values import Done
from ra_gateway.events import CredentialChanged
from tests.support.pki import VendorPKI, make_root, make_vendor_pki, write_certificates, write_key
from tests.support.redis_server import RedisServer
from tests.support.runbook import Book, operated, sections
from tests.support.setups import edit, keep_in_file, make_setup
from tests.support.softhsm import SoftHSM
from tests.support.stations import issued

RUN_BOOK: Final = "runbook.md"
ALERTS: Final = "alerts.md"
ENTITY: Final = "CN={}.ran.example.net,O=Example Operator"

Operate = Callable[..., AbstractAsyncContextManager[Book]]


@pytest.fixture
def operate(tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch) -> Operate:
    """Makes a site as `init` does, changed by whoever asks, and serves it."""
    monkeypatch.setattr(credential, "WATCH_SECONDS", 0.02)

    @asynccontextmanager
    async def operated_site(
        change: Callable[[Path], None] = lambda config: None,
        *,
        page: str = RUN_BOOK,
        redis: RedisServer | None = None,
    ) -> AsyncIterator[Book]:
        config = make_setup(
            tmp_path / "site",
            vendors={"acme": vendor_pki},
            domain="ran.example.net",
            redis_url=redis.url if redis and "@" not in redis.url else None,
        )
        config.write_text(f"{config.read_text()}\n[management]\nlisten_port = 0\n")
        change(config)
        async with operated(config, page, monkeypatch.chdir, redis) as book:
            yield book

    return operated_site


def certificate(done: Done) -> Certificate:
    return done.identity.signing.certificate


async def ledger(book: Book, *arguments: str) -> list[dict[str, str]]:
    """Return what a list of the CA has, for programs."""
    found: list[dict[str, str]] = json.loads(
        await book.run(f"ra-gateway ca {' '.join(arguments)} --json -c ca.toml")
    )
    return found


async def ra_certificates(book: Book) -> list[str]:
    """Fingerprints of the certificates of the gateway's RA, as `ca ra show` lists them."""
    told = await book.run("ra-gateway ca ra show gateway --json -c ca.toml")
    return re.findall(r'"fingerprint": "([0-9a-f]+)"', told)


def serial_number(path: Path) -> str:
    return f"{keys.load_certificates(path, 'it')[0].serial_number:x}"


# --- begin ------------------------------------------------------------------------------------------------------


async def test_a_site_begins(operate: Operate, vendor_pki: VendorPKI) -> None:
    """It is whole, a device that is listed enrols and renews, and what ends is listed."""

    def with_inventory(config: Path) -> None:
        (config.parent / "inventory.csv").write_text("domain,identity,subject,san,enabled\n")
        (config.parent / "site.csv").write_text(
            "domain,identity,subject,san,enabled\n"
            f'acme,enb-1.acme-radio.example,"{ENTITY.format("enb-1")}",dns:enb-1.ran.example.net,true\n'
        )
        config.write_text(f'{config.read_text()}\n[inventory]\ncsv_path = "inventory.csv"\n')
        edit(config, 'subject = "derive"', 'subject = "replace"')

    async with operate(with_inventory) as book:
        assert '"ready": true' in await book.follow("Install")
        device = vendor_pki.device("enb-1", san=["dns:enb-1.acme-radio.example"])
        device.write(book.directory, "device")
        told = await book.follow("The first enrolment")
        assert told.count(ENTITY.format("enb-1")) == 2
        assert (await book.follow("What ends, and when")).count("\n") == 1  # nobody's; a heading


# --- renew ------------------------------------------------------------------------------------------------------


async def test_the_ra_has_a_new_certificate(operate: Operate, vendor_pki: VendorPKI) -> None:
    async with operate() as book:
        (old,) = await ra_certificates(book)
        station = book.station(vendor_pki, "enb-1")
        step = await book.ask(station)
        await book.follow("The RA's certificate", "ca ra install")
        await book.wait_for(CredentialChanged)
        assert len(await ra_certificates(book)) == 2
        await book.confirm(station, step)
        await book.follow("The RA's certificate", FINGERPRINT=old)
        assert old not in await ra_certificates(book)
        await book.enrol(vendor_pki, "enb-2")


async def test_a_vendor_has_a_new_root(operate: Operate, vendor_pki: VendorPKI) -> None:
    async with operate() as book:
        other = make_vendor_pki("acme of tomorrow")
        write_certificates(book.directory / "acme" / "root-2.pem", other.root.certificate)
        with pytest.raises(EnrollmentRefused):
            await book.enrol(other, "enb-1")
        await book.follow("A vendor's root")
        await book.enrol(other, "enb-1")
        await book.enrol(vendor_pki, "enb-2")


async def test_a_listener_has_a_new_certificate(operate: Operate) -> None:
    """The command that looks at it; that it is taken up is tested with the listeners."""
    async with operate() as book:
        server = make_root("TLS root").issue("ra.example.net", san=["dns:ra.example.net"])
        write_certificates(book.directory / "tls.pem", server.certificate)
        assert "ra.example.net" in (await book.follow("A listener's TLS certificate"))


async def test_the_ca_has_new_keys(operate: Operate, vendor_pki: VendorPKI) -> None:
    """Signers, issuing CA and root, one after the other: base stations enrol and renew all the time."""
    async with operate() as book:
        first = await book.enrol(vendor_pki, "enb-1")
        ocsp = serial_number(book.directory / "ca" / "ocsp.pem")
        await book.follow("The CA's signers", "renew-signers")
        assert serial_number(book.directory / "ca" / "ocsp.pem") == ocsp  # it has a year
        await book.follow("The CA's signers")
        await book.follow("The issuing CA", "[operator]")
        await book.enrol(vendor_pki, "enb-2")
        await book.follow("The issuing CA")
        second = await book.enrol(vendor_pki, "enb-3")
        assert certificate(first).issuer != certificate(second).issuer
        await book.follow("The root")
        await book.enrol(vendor_pki, "enb-4")
        # One that was issued below the first of both.
        for name, done in (("old", first), ("new", second)):
            await renewed(book, name, done)


async def renewed(book: Book, name: str, done: Done) -> None:
    """Renew a certificate by the command of the page."""
    directory = book.directory / name
    directory.mkdir()
    has = done.identity.signing
    keys.write_certificates(directory / "cert.pem", (has.certificate, *has.chain))
    write_key(directory / "key.pem", done.private_key)
    root = book.directory / "operator" / "root.pem"
    await book.run(
        f"ra-gateway renew --url http://127.0.0.1:8080/.well-known/cmp --cert {name}/cert.pem "
        f"--key {name}/key.pem --trusted {root} --out {name}-next"
    )


async def test_redis_has_a_new_password(
    operate: Operate, vendor_pki: VendorPKI, guarded_redis_server: RedisServer
) -> None:
    """A transaction that began under the old one is ended under the new one."""

    def by_file(config: Path) -> None:
        edit(config, 'kind = "memory"', 'kind = "redis"\nredis_url = ""')
        keep_in_file(config, 'redis_url = ""', "redis_url_path", guarded_redis_server.url)

    old = "correct-horse"
    async with operate(by_file, redis=guarded_redis_server) as book:
        station = book.station(vendor_pki, "enb-1")
        step = await book.ask(station)
        names = {"NEW": "battery-staple", "OLD": old}
        await book.follow("Shared secrets and passwords", "SETUSER", **names)
        await book.enrol(vendor_pki, "enb-2")
        file = book.directory / "url"
        file.write_text(file.read_text().replace(old, names["NEW"]))
        await book.follow("Shared secrets and passwords", **names)
        await book.confirm(station, step)
        await book.enrol(vendor_pki, "enb-3")


async def test_the_seal_has_a_new_key(
    operate: Operate, vendor_pki: VendorPKI, own_redis_server: RedisServer
) -> None:
    """A transaction that began before the first round is ended within the second one."""
    async with operate(redis=own_redis_server) as book:
        await book.follow("The key that seals what is in Redis")
        text = (Path(__file__).parents[2] / "docs" / RUN_BOOK).read_text()
        rounds = re.findall(r"`(seal_key_paths = .*?)`", text)
        assert len(rounds) == 3
        station = book.station(vendor_pki, "enb-1")
        step = await book.ask(station)
        for number, line in enumerate(rounds):
            book.configure(f"[store]\n{line}")
            await book.run("ra-gateway reload")
            if number == 1:
                await book.confirm(station, step)
            await book.enrol(vendor_pki, f"enb-{number + 2}")


async def test_a_key_moves_into_an_hsm(
    operate: Operate, vendor_pki: VendorPKI, softhsm: SoftHSM
) -> None:
    async with operate() as book:
        shutil.copy(softhsm.pin_path, book.directory / "ca" / "pin")
        module = {"/usr/lib/softhsm/libsofthsm2.so": str(softhsm.module_path)}
        await book.follow("A CA key in an HSM", **module)
        assert (book.directory / "ca" / "ocsp.key").read_text().startswith("pkcs11:token=ca;")
        await book.run("systemctl restart ra-gateway-ca")
        await book.enrol(vendor_pki, "enb-1")


# --- restore ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
async def test_a_ledger_that_was_lost_is_restored(
    operate: Operate, vendor_pki: VendorPKI, database: str, request: pytest.FixtureRequest
) -> None:
    """What was issued before the backup renews; what was issued after it is unknown, and enrols anew."""

    def in_postgres(config: Path) -> None:
        url = request.getfixturevalue("postgres_url")
        keep_in_file(config, 'ledger_path = "ca/ledger.sqlite"', "ledger_url_path", url)

    async with operate() as book:
        first = await book.enrol(vendor_pki, "enb-1")
        await book.follow("Run book")
        await book.follow("Back up")
        await book.enrol(vendor_pki, "enb-2")
        revoke = f"ra-gateway ca revoke {certificate(first).serial_number:x} --reason keyCompromise"
        await book.run(f"{revoke} -c ca.toml")
        await book.follow("The ledger is lost", "mkdir lost")
        if database == "PostgreSQL":
            in_postgres(book.config)
            await book.run("ra-gateway ca migrate -c ca.toml")
        assert "checkpoints" in await book.follow("The ledger is lost", "ca restore")
        await book.follow("The ledger is lost", "ca verify")
        await book.run(f"{revoke} -c ca.toml")
        await book.follow("The ledger is lost")
        listed = await ledger(book, "list")
        assert [(row["entity"], row["status"]) for row in listed] == [
            (ENTITY.format("enb-1"), "revoked")
        ]
        await book.enrol(vendor_pki, "enb-2")


async def test_redis_that_was_lost(
    operate: Operate, vendor_pki: VendorPKI, own_redis_server: RedisServer
) -> None:
    """A device that confirms is refused and begins anew; one that repeats its ir gets what it had got."""
    own_redis_server.command("CONFIG SET appendonly yes")
    async with operate(redis=own_redis_server) as book:
        asking, confirming = (book.station(vendor_pki, host) for host in ("enb-1", "enb-2"))
        got = issued(await book.post(await asking.request()))
        step = await book.ask(confirming)
        own_redis_server.kill()
        own_redis_server.start()  # without the option: it reads no file
        own_redis_server.command("CONFIG SET appendonly yes")
        await book.follow("Redis is lost")
        with pytest.raises(EnrollmentRefused):
            await book.confirm(confirming, step)
        again = book.station(vendor_pki, "enb-2")
        await book.confirm(again, await book.ask(again))
        assert issued(await book.post(await asking.request())) == got != b""


# --- upgrade ----------------------------------------------------------------------------------------------------


async def test_a_new_release(operate: Operate, vendor_pki: VendorPKI) -> None:
    """The commands of the page in their order; a device that was served before has its certificate confirmed after."""
    async with operate() as book:
        first = await book.enrol(vendor_pki, "enb-1")
        assert '"ready": true' in await book.follow("To a new release")
        assert (book.directory / "opt/ra_gateway").readlink().name == "ra_gateway-0.3.0"
        await renewed(book, "old", first)


# --- emergencies ------------------------------------------------------------------------------------------------


async def test_a_key_of_a_base_station_is_lost(operate: Operate, vendor_pki: VendorPKI) -> None:
    """It neither renews nor enrols; others do."""
    async with operate() as book:
        done = await book.enrol(vendor_pki, "enb-1")
        serial = f"{certificate(done).serial_number:x}"
        await book.follow("A base station's key", SERIAL=serial)
        (row,) = await ledger(book, "list")
        assert row["status"] == "revoked"
        with pytest.raises(EnrollmentRefused):
            await book.enrol(vendor_pki, "enb-1")
        await book.enrol(vendor_pki, "enb-2")


async def test_the_key_of_the_ra_is_lost(operate: Operate, vendor_pki: VendorPKI) -> None:
    """Also the first one's: nothing is issued until the gateway has another; then everything is as before."""
    async with operate() as book:
        serial = serial_number(book.directory / "ra" / "ra.pem")
        old = keys.load_certificates(book.directory / "ra" / "ra.pem", "RA")[0].fingerprint.hex()
        await book.follow("The RA's key", "ca ra block")
        with pytest.raises(EnrollmentRefused):
            await book.enrol(vendor_pki, "enb-1")
        await book.follow("The RA's key", FINGERPRINT=old, SERIAL=serial)
        await book.wait_for(CredentialChanged)
        await book.enrol(vendor_pki, "enb-1")
        assert old not in await ra_certificates(book)


async def test_the_key_of_the_issuing_ca_is_lost(operate: Operate, vendor_pki: VendorPKI) -> None:
    """What it issued is believed no more; base stations enrol again by their vendor certificates."""
    async with operate() as book:
        done = await book.enrol(vendor_pki, "enb-1")
        serial = serial_number(book.directory / "operator" / "issuing.pem")
        await book.follow("The issuing CA's key", SERIAL=serial)
        with pytest.raises(AssertionError, match="signerNotTrusted"):
            await renewed(book, "old", done)
        again = await book.enrol(vendor_pki, "enb-1")
        assert certificate(again).issuer != certificate(done).issuer


async def test_a_vendor_is_cut_off(operate: Operate, vendor_pki: VendorPKI) -> None:
    """Its devices neither enrol nor, one after the other, renew; the list says whose they are."""
    async with operate() as book:
        done = await book.enrol(vendor_pki, "enb-1")
        await book.follow("A vendor that is to be cut off", "ra-gateway reload")
        with pytest.raises(EnrollmentRefused):
            await book.enrol(vendor_pki, "enb-2")
        await renewed(book, "still", done)
        listed = json.loads(await book.follow("A vendor that is to be cut off", "ca list"))
        serial, *_ = [row["serial"] for row in listed if row["vendor"] == "acme"]
        await book.follow("A vendor that is to be cut off", SERIAL=serial)
        assert {row["status"] for row in await ledger(book, "list")} == {"revoked"}


# --- alerts -----------------------------------------------------------------------------------------------------


async def test_what_alerts_have_one_do(
    operate: Operate, vendor_pki: VendorPKI, own_redis_server: RedisServer
) -> None:
    """Every command on the page of alerts, at a site where all is well."""

    def with_inventory(config: Path) -> None:
        (config.parent / "inventory.csv").write_text("domain,identity,subject,san,enabled\n")
        config.write_text(f'{config.read_text()}\n[inventory]\ncsv_path = "inventory.csv"\n')

    own_redis_server.command("CONFIG SET appendonly yes")
    async with operate(with_inventory, page=ALERTS, redis=own_redis_server) as book:
        await book.enrol(vendor_pki, "A005")
        for section in sections(ALERTS):
            await book.follow(section)


# --- all of it --------------------------------------------------------------------------------------------------


def test_no_section_with_commands_is_left_out() -> None:
    """Each is followed by one of these tests, and no test follows one that there is not."""
    followed = set(re.findall(r'follow\(\s*"(.+?)"', Path(__file__).read_text()))
    assert followed == set(sections(RUN_BOOK))
