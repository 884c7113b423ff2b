"""`ra-gateway why`: planted faults, each explained by one command, with what to do about it."""

from __future__ import annotations

import json
import re
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app.log_reader import LONGEST_LINE, LogReader
from tests.support.commandline import run, succeeded
from tests.support.pki import Credential, VendorPKI, make_vendor_pki, write_certificates, write_key
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, keep_to_the_standard, make_setup

SERVED = "CN=A001.ran.example.net,O=Example Operator"


@pytest.fixture(scope="module")
def acme() -> VendorPKI:
    return make_vendor_pki()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, acme: VendorPKI) -> Path:
    """A gateway that A001 was served by, and that refused others for a reason each; it has stopped."""
    directory = tmp_path_factory.mktemp("why")
    config = make_setup(directory, vendors={"acme": acme})
    keep_to_the_standard(config)
    rows = ["A001,,,true", "A002,,,true", "A003,,,false", "A005,,,true", "A006,,,true"]
    (directory / "devices.csv").write_text(
        "domain,identity,subject,san,enabled\n" + "".join(f"acme,{row}\n" for row in rows)
    )
    edit(
        config,
        "[vendors.acme.identity]",
        '[inventory]\ncsv_path = "devices.csv"\n\n[vendors.acme.identity]\n'
        'inventory = "required"\nidentity_from = "cn"',
    )
    over = datetime.now(UTC) - timedelta(days=1)
    device = acme.device
    expired = device("A002", not_before=over - timedelta(days=9), not_after=over)
    stations = {
        "A001": (device("A001"), SERVED),
        "A002": (expired, SERVED.replace("1", "2")),
        "A003": (device("A003"), SERVED.replace("1", "3")),
        "A004": (device("A004"), SERVED.replace("1", "4")),
        "A005": (device("A005"), "CN=A005.ran.example.net"),  # of no form that the CA certifies
        "A006": (make_vendor_pki("Evil").device("A006"), SERVED.replace("1", "6")),
    }
    with GatewayProcess(config) as gateway:
        for name, (station, subject) in stations.items():
            enrolled = enroll(directory / name, gateway.url, station, subject)
            assert enrolled is (name == "A001"), gateway.log
            log = gateway.log
    (directory / "log").write_text(log)
    return config


def enroll(directory: Path, url: str, station: Credential, subject: str) -> bool:
    """Enrol a base station; tell whether that was done."""
    directory.mkdir()
    cert = write_certificates(directory / "vendor.pem", station.certificate, *station.chain)
    key = write_key(directory / "vendor.key", station.private_key)
    options = ("--url", url, "--out", directory / "out", "--subject", subject)
    return run("enroll", "--cert", cert, "--key", key, *options).exit_code == 0


def why(site: Path, what: str) -> list[dict[str, str]]:
    """All that is found, and the same in words."""
    options = ("why", what, "--config", site, "--log", site.parent / "log")
    found: list[dict[str, str]] = json.loads(succeeded(*options, "--json"))
    words = succeeded(*options)
    for item in found:
        assert item["said"].rstrip(".") in words
        assert item["todo"] in words
    return found


def said(found: list[dict[str, str]], source: str) -> str:
    return "; ".join(item["said"] for item in found if item["source"] == source)


def todo(found: list[dict[str, str]]) -> str:
    return "; ".join(item["todo"] for item in found)


FAULTS = {
    "A002": ("log", "is valid from", "a new vendor certificate"),
    "A003": ("inventory", "A003 of acme is listed, not enabled", "Set enabled = true in its line"),
    "A004": ("inventory", "acme requires it", "Add a line to"),
    "A005": ("log", "the bundled CA refused ir", "vendors.NAME.identity.subject_template"),
    "A006": ("trust", "none of the CAs that are configured for acme", "add it to intermediates_paths"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_explained(name: str, site: Path) -> None:
    """By what names the device, with what to do."""
    source, sentence, remedy = FAULTS[name]
    found = why(site, name)
    assert found[0]["source"] == "log"
    assert "refused" in found[0]["said"]
    assert sentence in said(found, source)
    assert remedy in todo(found)


def test_who_was_served_has_a_certificate_and_no_fault(site: Path) -> None:
    """And is found by its serial number and its transaction as well as by its name."""
    found = why(site, "A001")
    assert "is confirmed" in found[0]["said"]
    assert "A001 of acme is listed, enabled" in said(found, "inventory")
    assert f"for {SERVED} is confirmed" in said(found, "ledger")
    assert (said(found, "trust"), set(todo(found))) == ("", set("; "))
    log = (site.parent / "log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    issued = next(line for line in lines if line.get("outcome") == "issued")
    serial = issued["serial_number"]
    for what in (issued["transaction_id"], issued["transaction_id"][:10], serial, serial.upper()):
        assert said(why(site, what), "ledger") == said(found, "ledger")


def test_a_revoked_certificate_is_told(site: Path, tmp_path: Path) -> None:
    """Also without a log, by the ledger alone."""
    listed = succeeded("ca", "list", "--config", site).splitlines()
    serial = next(line for line in listed if "confirmed" in line).split()[0]
    succeeded("ca", "revoke", serial, "--reason", "keyCompromise", "--config", site)
    found: list[dict[str, str]] = json.loads(succeeded("why", serial, "--config", site, "--json"))
    assert found[0]["said"] == "no log was given"
    assert "journalctl -u ra-gateway -o cat | ra-gateway why" in found[0]["todo"]
    assert "(keyCompromise)" in said(found, "ledger")
    assert "enrol anew" in todo(found)


def found_without_log(site: Path, what: str) -> list[dict[str, str]]:
    """What inventory, ledger and trust alone say."""
    found: list[dict[str, str]] = json.loads(succeeded("why", what, "--config", site, "--json"))
    return found


@pytest.mark.parametrize("what", ["A001", SERVED, "A001.ran.example.net"])
def test_who_is_blocked_is_told_without_a_log(site: Path, what: str) -> None:
    """By whatever names the device, as `ca history` takes it: its vendor's identity, too."""
    succeeded("ca", "entity", "block", SERVED, "--config", site)
    try:
        found = found_without_log(site, what)
    finally:
        succeeded("ca", "entity", "unblock", SERVED, "--config", site)
    assert f"the end entity {SERVED} is blocked" in said(found, "ledger")
    assert f"certificate {serial_of(site)} for {SERVED}" in said(found, "ledger")
    assert f"ca entity unblock '{SERVED}'" in todo(found)


def serial_of(site: Path) -> str:
    """The serial number of the one certificate of a base station."""
    listed = succeeded("ca", "list", "--config", site).splitlines()
    return next(line for line in listed if SERVED in line).split()[0]


@pytest.mark.parametrize("upper", [False, True])
def test_a_serial_number_is_looked_up_in_the_ledger_alone(site: Path, upper: bool) -> None:
    """It names no device of the inventory; the device that has it is looked up there."""
    serial = serial_of(site)
    found = found_without_log(site, serial.upper() if upper else serial)
    assert f"the end entity {SERVED} is active" in said(found, "ledger")
    assert "A001 of acme is listed, enabled" in said(found, "inventory")


def test_who_is_of_another_vendor_is_not_to_be_listed(site: Path) -> None:
    """Names of CAs are no device's, and a line in the inventory would help nobody whose root is unknown."""
    found = why(site, "A006")
    assert said(found, "inventory") == "A006 of acme is listed, enabled"
    log = (site.parent / "log").read_text().replace("A006", "A016")
    options = ("why", "A016", "--config", site, "--log", "-", "--json")
    found = json.loads(succeeded(*options, stdin=log.encode()))
    assert said(found, "inventory") == ""
    assert "none of the CAs that are configured" in said(found, "trust")


def test_the_address_of_a_base_station_finds_what_failed_below_cmp(site: Path) -> None:
    """Whoever has the wrong path, method or content type is known by its address alone."""
    lines = [
        {"event": "http.refused", "peer": f"192.0.2.{number}", "method": "POST", "path": "/pki", "status": status,
         "reason": "No CMP endpoint has this path.", "timestamp": "2026-11-30T10:00:00Z"}
        for number, status in ((7, 404), (7, 404), (77, 405))
    ]  # fmt: skip
    log = (site.parent / "log").read_text() + "".join(json.dumps(line) + "\n" for line in lines)
    options = ("why", "192.0.2.7", "--config", site, "--log", "-", "--json")
    found = json.loads(succeeded(*options, stdin=log.encode()))
    assert [item["source"] for item in found] == ["log"]
    assert "2 requests of it failed below CMP, the last at 2026-11-30T10:00:00Z" in found[0]["said"]
    assert "POST /pki 404 No CMP endpoint has this path" in found[0]["said"]
    assert "endpoints.NAME.paths" in found[0]["todo"]


def test_who_never_came_is_told_apart(site: Path) -> None:
    """No line is about it; what failed below CMP is told instead, and not what monitoring failed at."""
    refused: dict[str, Any] = {
        "event": "http.refused",
        "peer": "192.0.2.7",
        "method": "POST",
        "path": "/pki",
    }
    refused |= {"status": 404, "reason": "No CMP endpoint has this path."}
    monitoring = refused | {"listener": "management", "peer": "192.0.2.99"}
    lines = (refused | {"listener": "cmp"}, refused, monitoring)
    log = (site.parent / "log").read_text() + "".join(f"{json.dumps(line)}\n" for line in lines)
    options = ("why", "A999", "--config", site, "--log", "-")
    found: list[dict[str, str]] = json.loads(succeeded(*options, "--json", stdin=log.encode()))
    assert "no message of it came so far as CMP" in found[0]["said"]
    assert "2 requests of anybody failed below CMP" in found[1]["said"]
    assert "from 192.0.2.7: POST /pki 404" in found[1]["said"]


def test_a_clock_that_is_wrong_is_a_matter_of_the_device(site: Path) -> None:
    """Lines as journald shows them, with what it puts in front."""
    line: dict[str, Any] = {
        "event": "ir", "transaction_id": "aa" * 16, "outcome": "refused", "signer": "CN=A007,O=ACME", "rule": "R29",
        "detail": "messageTime 2026 is 7199 s ahead of our clock; 300 s are allowed", "fail_info": "badTime",
        "timestamp": "2026-11-30T10:00:00Z",
    }  # fmt: skip
    text = "".join(
        f"Nov 30 host ra-gateway[7]: {json.dumps(line | {'transaction_id': f'{n:032x}'})}\n"
        for n in range(3)
    )
    options = ("why", "A007", "--config", site, "--log", "-")
    words = succeeded(*options, stdin=text.encode())
    assert "refused ir at 2026-11-30T10:00:00Z (3 times so)" in words
    assert "it is a matter of the device or its vendor: the device's clock and ours" in words
    assert "A007 is listed under none of acme" in words


def test_of_a_log_without_end_a_bound_is_kept() -> None:
    """Lines that are no JSON, or too long, or of others, cost nothing that stays."""
    reader = LogReader("A001")
    other = '{"event": "ir", "transaction_id": "%x", "signer": "CN=B"}'
    own = '{"event": "ir", "transaction_id": "%x", "signer": "CN=A001", "outcome": "refused"}'
    reader.read(other % number for number in range(30_000))
    reader.read(own % number for number in range(40_000, 45_000))
    reader.read(["x" * (LONGEST_LINE + 9), "[" * 9000, "{" * 9000, "", '{"a": ' * 5000])
    assert len(reader.transactions()) == 2000
    assert reader.unreadable == 4
    assert len(reader._others) == 20_000


def test_a_stranger_pushes_nobody_out() -> None:
    """With transactions of its own, before the lines of the one that is meant and behind them."""
    reader = LogReader("A001")
    ca = '{"event": "ca.refused", "transaction_id": "aa", "detail": "no such role"}'
    own = '{"event": "ir", "transaction_id": "aa", "signer": "CN=A001", "outcome": "refused"}'
    other = '{"event": "ir", "transaction_id": "f%x", "signer": "CN=B", "outcome": "refused"}'
    reader.read([ca, own])
    reader.read(other % number for number in range(30_000))
    assert [[line["event"] for line in lines] for lines in reader.transactions()] == [
        ["ca.refused", "ir"]
    ]


@pytest.mark.parametrize("signer", ["A001", "B"])
def test_of_long_lines_few_are_kept(signer: str) -> None:
    """Whoever sends messages writes most of what is in a line."""
    reader = LogReader("A001")
    long = {"event": "ir", "signer": signer, "outcome": "refused", "detail": "x" * 60_000}
    tracemalloc.start()
    try:
        reader.read(json.dumps({**long, "transaction_id": f"{at:x}"}) for at in range(1800))
        assert tracemalloc.get_traced_memory()[0] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["CN=A0011", "XA001", "A001.example.net", "A001-2"])
def test_a_name_is_a_word(text: str) -> None:
    """Another device, the name of which begins or ends alike, is another one."""
    reader = LogReader("A001")
    reader.read([json.dumps({"event": "ir", "transaction_id": "1", "signer": text})])
    assert bool(reader.transactions()) is (text == "A001.example.net")


def test_a_ca_by_itself_tells_what_it_knows(site: Path) -> None:
    """By the ledger and its own log, where there is no gateway and no inventory."""
    table = re.findall(r"(?ms)^(\[ca[^\n]*\]\n.*?)(?=^\[(?!ca)|\Z)", site.read_text())
    alone = site.with_name("ca.toml")
    alone.write_text("\n".join(table))
    options = ("why", "A005", "--config", alone, "--log", site.parent / "log", "--json")
    found = json.loads(succeeded(*options))
    assert "the bundled CA refused ir" in found[0]["said"]
    assert "inventory" not in {item["source"] for item in found}


def test_a_log_that_is_no_json_is_told(site: Path) -> None:
    found = json.loads(
        succeeded("why", "A001", "--config", site, "--log", "-", "--json", stdin=b"ir refused\n")
    )
    assert found[0]["todo"] == 'Set log.format = "json"'
