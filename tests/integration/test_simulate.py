"""`ra-gateway simulate` against a real gateway: each load, what base stations do, and what is said of it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.keys import load_certificates
from tests.support.commandline import run, succeeded
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, make_setup

SUBJECT = "CN={name}.ran.example.net,O=Example Operator"


@dataclass(frozen=True)
class Staging:
    """A running gateway, and a fleet of a vendor that it trusts."""

    gateway: GatewayProcess
    directory: Path

    @property
    def root(self) -> Path:
        """The operator's root."""
        return self.directory / "operator" / "root.pem"

    @property
    def fleet(self) -> tuple[str | Path, ...]:
        """Options of a fleet that is made on the fly."""
        vendor = self.directory / "acme"
        return (
            *("simulate", "--url", self.gateway.url, "--subject", SUBJECT),
            *("--vendor-cert", vendor / "sub.pem", "--vendor-key", vendor / "sub.key"),
        )

    def told(self, *options: str | Path, exit_code: int = 0) -> Any:
        """Run a fleet, and return its summary."""
        ended = run(*self.fleet, *options, "--json")
        assert ended.exit_code == exit_code, ended
        return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Iterator[Staging]:
    """A gateway with the bundled CA and a memory store."""
    directory = tmp_path_factory.mktemp("staging")
    config = make_setup(directory, vendors={"acme": vendor_pki}, implicit_confirm="relay")
    with GatewayProcess(config) as gateway:
        yield Staging(gateway, directory)


def outcomes(told: Any) -> dict[tuple[str, str | None, str], int]:
    """Return how many operations ended how."""
    return {
        (item["request"], item["fault"], item["outcome"]): item["count"]
        for item in told["operations"]
    }


def counts(told: Any) -> dict[str, int]:
    """Return how many messages of each type were answered."""
    return {item["name"]: item["count"] for item in told["latencies"] if item["of"] == "message"}


def test_a_fleet_enrols_and_renews(staging: Staging) -> None:
    """Closed loop: each message is counted and timed, and the advice is of the validity that came."""
    before = len(staging.gateway.handled)
    told = staging.told("--count", "6", "--at-once", "3", "--renewals", "2", "--fleet", "50000")
    assert outcomes(told) == {("ir", None, "issued"): 6, ("kur", None, "issued"): 12}
    assert counts(told) == {"ir": 6, "certConf": 18, "kur": 12}
    assert len(staging.gateway.handled) - before == 36
    assert (told["begun"], told["ended"], told["held"], told["interrupted"]) == (6, 6, 0, False)
    for latency in told["latencies"]:
        assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
        assert latency["sent_max_ms"] <= latency["max_ms"]
    advice = told["advice"]
    assert (advice["devices"], advice["validity_days"]) == (50_000, 365)
    assert advice["least_hours"] > 0
    assert told["carried"]["per_second"] > 0


def test_for_people(staging: Staging) -> None:
    """A table of outcomes, one of latencies, and sentences on capacity and renewals."""
    text = succeeded(*staging.fleet, "--count", "2", "--first", "100", "--implicit-confirm")
    assert text.startswith("2 base stations in ")
    assert "\nir\t\tissued\t2\n" in text
    assert re.search(r"^ir, all of it\t2\t", text, re.MULTILINE)
    assert "certConf" not in text
    assert re.search(r"^Spread them over [1-9]\d* seconds? at least, ", text, re.MULTILINE)
    assert re.search(
        r"^How that is reckoned: of [\d.]+ a second that were carried half", text, re.M
    )
    assert re.search(r"^Carried: [\d.]+ operations a second", text, re.MULTILINE)


@pytest.mark.parametrize(
    "load",
    [("--storm", "--processes", "2"), ("--rate", "40", "--ramp", "0.2")],
    ids=["storm", "rate"],
)
def test_open_loops(load: tuple[str, ...], staging: Staging) -> None:
    """All come, in processes of their own, however few may be under way; what waited is said, and counts as waiting."""
    told = staging.told(
        *(*load, "--count", "12", "--at-once", "2", "--first", "200", "--share-connections"),
    )
    assert outcomes(told) == {("ir", None, "issued"): 12}
    assert len(told["simulator"]["cpu_shares"]) == (2 if "--storm" in load else 1)
    if "--storm" in load:
        assert told["held"] == 10
        (whole,) = (item for item in told["latencies"] if item["of"] == "operation")
        assert whole["max_ms"] > 2 * whole["sent_p50_ms"]
    assert sum(span["due"] for span in told["timeline"]["spans"]) == 12


def test_losses_and_repeats_are_borne(staging: Staging) -> None:
    """A message that had no answer is sent again, octet by octet; nobody gets two certificates; a seed repeats it."""
    options = (
        *("--count", "8", "--seed", "3", "--timeout", "0.4", "--retransmissions", "20"),
        *("--lose-requests", "15", "--lose-answers", "25", "--repeat", "50"),
    )
    told = staging.told(*options, "--first", "300")
    assert outcomes(told) == {("ir", None, "issued"): 8}
    assert told["lost_requests"] > 0
    assert told["lost_answers"] > 0
    assert told["repeated"] > 0
    assert (told["issued_twice"], told["repeats_failed"]) == (0, 0)
    assert told["retransmitted"] >= told["lost_requests"] + told["lost_answers"]
    seen = Counter(event["outcome"] for event in staging.gateway.handled)
    assert seen["issued"] > 0


def test_what_is_always_lost_is_no_fault_of_the_gateway(staging: Staging) -> None:
    """It is told as lost, and the exit code is 0."""
    told = staging.told(
        *("--count", "2", "--lose-requests", "100", "--timeout", "0.01", "--first", "400"),
        *("--at-once", "1", "--processes", "2"),
    )
    assert len(told["simulator"]["cpu_shares"]) == 1  # one under way at a time is one process

    assert outcomes(told) == {("ir", None, "lost"): 2}
    assert (told["lost_requests"], told["retransmitted"]) == (8, 6)


def test_faulty_ones_are_refused(staging: Staging) -> None:
    """By what each does wrong, told apart from the others; the exit code is 0, as that was to be."""
    faults = ("pop", "unknown-vendor", "clock", "protection")
    told = staging.told(
        *("--count", "24", "--faulty", "60", "--first", "500", "--repeat", "0"),
        *(word for fault in faults for word in ("--fault", fault)),
    )
    found = outcomes(told)
    assert {key for key in found if key[1]} == {("ir", fault, "refused") for fault in faults}
    assert found["ir", None, "issued"] > 0
    assert sum(found.values()) == 24
    wanted = dict(
        zip(("badPOP", "signerNotTrusted", "badTime", "badMessageCheck"), faults, strict=True)
    )
    assert told["fail_info"] == {bit: found["ir", wanted[bit], "refused"] for bit in wanted}
    assert any("badPOP" in text for text in told["reasons"])


def test_what_they_got_is_renewed_later(staging: Staging, tmp_path: Path) -> None:
    """--out keeps certificates and keys in private files; --devices takes them up, each once."""
    out = tmp_path / "got"
    staging.told("--count", "3", "--first", "600", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["sim-600", "sim-601", "sim-602"]
    assert (out / "sim-600" / "key.pem").stat().st_mode & 0o777 == 0o600
    url, kur = staging.gateway.url, ("--request", "kur", "--trusted", staging.root)
    new = tmp_path / "new"
    told = succeeded("simulate", "--url", url, "--devices", out, *kur, "--out", new)
    assert "\nkur\t\tissued\t3\n" in told
    old, got = (load_certificates(at / "sim-601" / "cert.pem", "test")[0] for at in (out, new))
    assert (got.subject, got.serial_number == old.serial_number) == (old.subject, False)
    ended = run("simulate", "--url", url, "--devices", out, *kur, "--count", "4")
    assert (ended.exit_code, "each is renewed once" in ended.stderr) == (2, True)
    ended = run(*staging.fleet, "--out", out)
    assert (ended.exit_code, "is not empty" in ended.stderr) == (2, True)


def test_devices_of_a_vendor_come_again_and_again(
    staging: Staging, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """From NAME.pem and NAME.key, with the chain apart; more than there are, from the first on."""
    for serial in ("SN-1", "SN-2"):
        vendor_pki.device(serial).write(tmp_path, serial)
    chain = staging.directory / "acme" / "sub.pem"
    told = succeeded(
        *("simulate", "--url", staging.gateway.url, "--devices", tmp_path, "--chain", chain),
        *("--count", "3", "--subject", "CN={name}-{n}"),
    )
    assert "\nir\t\tissued\t3\n" in told


def test_waiting_base_stations_poll(vendor_pki: VendorPKI, redis_url: str, tmp_path: Path) -> None:
    """As they are told to; who is not helped within its patience is told as such, and that is not as expected."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    edit(
        config,
        "[endpoints.ran]\n",
        '[endpoints.ran]\napproval = "required"\ncheck_after_seconds = 1\n',
    )
    with GatewayProcess(config) as gateway:
        staging = Staging(gateway, tmp_path)
        told = staging.told("--count", "2", "--patience", "1.5", exit_code=1)
    assert outcomes(told) == {("ir", None, "still waiting"): 2}
    assert counts(told)["pollReq"] >= 2
    assert told["unexpected"] == ["2 of 2 operations failed: 2 still waiting"]


def test_nobody_answers(tmp_path: Path, staging: Staging) -> None:
    """Each that finds nobody is counted; the exit code is 1, or 0 where that was allowed for."""
    fleet = [*map(str, staging.fleet)]
    fleet[fleet.index("--url") + 1] = "http://127.0.0.1:1/"
    options = ("--count", "2", "--retransmissions", "1", "--retransmit-after", "0.01")
    ended = run(*fleet, *options)
    assert (
        ended.exit_code,
        "not as expected: 2 of 2 operations failed: 2 unreachable" in ended.stderr,
    ) == (1, True)
    assert "\nir\t\tunreachable\t2\n" in ended.stdout
    ended = run(*fleet, *options, "--allow-failures", "100", "--json")
    told = json.loads(ended.stdout)
    assert (ended.exit_code, told["retransmitted"], told["as_expected"]) == (0, 2, True)


def test_it_ends_when_told_to(staging: Staging) -> None:
    """Ctrl-C: who has begun comes to an end, nobody else begins, and the summary is of what there was."""
    before = len(staging.gateway.handled)

    def interrupt() -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while len(staging.gateway.handled) < before + 4 and time.monotonic() < give_up_at:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    told = staging.told("--rate", "5", "--count", "5000", "--first", "10000")
    interrupting.join()
    assert told["interrupted"]
    assert 0 < told["begun"] == told["ended"] < 5000
    assert set(outcomes(told)) == {("ir", None, "issued")}


def test_a_duration_ends_it(staging: Staging) -> None:
    """In a closed loop, too: none begins after it."""
    told = staging.told("--duration", "0.5", "--first", "20000", "--at-once", "2")
    assert 2 <= told["begun"] == told["ended"]
    assert not told["interrupted"]


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/", "https://gateway.example.net/cmp", "http://[2001:db8::1]:8080/"]
)
def test_only_what_is_ones_own_is_loaded(url: str, staging: Staging) -> None:
    """Nothing is sent to another machine unless it is said to be one's own to load."""
    fleet = [*map(str, staging.fleet)]
    fleet[fleet.index("--url") + 1] = url
    ended = run(*fleet, "--count", "1")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "is not this machine" in ended.stderr
    assert "--target-is-mine" in ended.stderr
    # The next thing that is wrong is found with it.
    ended = run(*fleet, "--target-is-mine", "--name", "x")
    assert (ended.exit_code, "is no label" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    "options, told",
    [
        (("--storm", "--rate", "1"), "two kinds of load"),
        (("--ramp", "1"), "--ramp goes with --rate"),
        (("--renew-after", "1"), "--renew-after goes with --renewals"),
        (("--fault", "pop"), "--fault goes with --faulty"),
        (("--faulty", "101"), "less than or equal to 100"),
        (("--rate", "nan"), "--rate"),
        (("--request", "kur"), "kur goes with --devices"),
        (("--request", "cr"), "cr needs --trusted"),
        (("--devices", "."), "Give --vendor-cert and --vendor-key, or --devices"),
        (("--name", "a.b"), "is no label of a domain name"),
        (("--subject", "{name}"), "is no name"),
        (("--subject", "CN={nam}"), "{nam} in --subject is neither {n} nor {name}"),
        (("--san", "dns:{host}.example.net"), "{host} in --san is neither"),
        (("--url", "http://admin:secret-word@127.0.0.1/"), "--url"),
        (("--san", "dns"), "--san"),
        (("--trusted", "none.pem"), "--trusted: no certificate can be read"),
        (("--vendor-cert", "{root}"), "does not belong to the certificate"),
        (("--tls-ca", "x.pem"), "go with an https URL"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_first(options: tuple[str, ...], told: str, staging: Staging) -> None:
    """Before anything is sent, with the option it is about."""
    before = len(staging.gateway.handled)
    filled = [
        item.replace("{root}", str(staging.directory / "acme" / "root.pem")) for item in options
    ]
    ended = run(*staging.fleet, *filled)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert told in ended.stderr, ended.stderr
    assert "secret-word" not in ended.stderr
    assert len(staging.gateway.handled) == before


@pytest.mark.parametrize("load", [("--at-once", "1"), ("--storm", "--at-once", "1")])
def test_what_was_counted_is_told_whatever_ends_it(
    load: tuple[str, ...], staging: Staging, tmp_path: Path
) -> None:
    """A base station whose key cannot be read, or a directory that is full: in words, after what there was."""
    got = tmp_path / "got"
    staging.told("--count", "4", "--first", "700", "--out", got)
    (got / "sim-702" / "key.pem").write_text("no key")
    url, kur = staging.gateway.url, ("--request", "kur", "--trusted", staging.root)
    ended = run("simulate", "--url", url, "--devices", got, *kur, *load)
    assert ended.exit_code == 1
    assert "\nkur\t\tissued\t" in ended.stdout
    assert (
        f"it was ended by an error: --devices: no private key can be read from {got}"
        in ended.stderr
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sim-711").symlink_to(tmp_path / "nowhere" / "else")
    ended = run(*staging.fleet, "--count", "4", "--first", "710", "--out", tmp_path / "out", *load)
    assert ended.exit_code == 2  # it is not empty


def test_who_is_one_of_several_processes_says_what_is_wrong(
    staging: Staging, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As one alone does: in words, and without the traceback of any process."""
    got = tmp_path / "got"
    staging.told("--count", "2", "--first", "720", "--out", got)
    (got / "sim-721" / "key.pem").write_text("no key")
    options = ("--request", "kur", "--trusted", staging.root, "--processes", "2")
    ended = run("simulate", "--url", staging.gateway.url, "--devices", got, *options)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "--devices: no private key can be read from" in ended.stderr
    assert capfd.readouterr().err == ""


def test_a_directory_without_base_stations(staging: Staging, tmp_path: Path) -> None:
    """Is refused, and one whose first certificate is a CA's, too."""
    (tmp_path / "empty").mkdir()
    options = ("simulate", "--url", staging.gateway.url, "--devices")
    ended = run(*options, tmp_path / "empty")
    assert (ended.exit_code, "no base station is in" in ended.stderr) == (2, True)
    ended = run(*options, staging.directory / "acme")
    assert (ended.exit_code, "is the certificate of a CA" in ended.stderr) == (2, True)
    for unused in ("--vendor-cert", "--vendor-key", "--vendor-key-password"):
        ended = run(*options, tmp_path, unused, tmp_path / "file")
        assert (ended.exit_code, "Give --vendor-cert and --vendor-key, or" in ended.stderr) == (
            2,
            True,
        )
    ended = run(*options, tmp_path, "--name", "enb-{n}")
    assert (ended.exit_code, "--name goes with --vendor-cert" in ended.stderr) == (2, True)
