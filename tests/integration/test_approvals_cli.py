"""`ra-gateway approvals` against a real Redis: what it lists, what it decides, and what it says no to."""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app.store import transaction_store
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.config.reading import load
from ra_gateway.ra.approval import NotHeld, decide
from ra_gateway.ra.transaction import (
    Event,
    Exchange,
    State,
    Transaction,
    TransactionKey,
    advance,
)
from ra_gateway.ra.waiting import request_digest
from ra_gateway.stores.redis import RedisStore
from tests.support.commandline import run
from tests.support.pki import VendorPKI, certificate_der
from tests.support.printed import HELP, Prompt, to_run
from tests.support.redis_server import RedisServer
from tests.support.setups import make_setup
from tests.support.transactions import in_redis, new_transaction, system_clock

FIRST, SECOND = bytes.fromhex("ab01") * 8, bytes.fromhex("ab02") * 8


@pytest.fixture
def config(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str, redis_server: RedisServer
) -> Iterator[Path]:
    yield make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    redis_server.command("FLUSHALL")  # other tests list what waits, too


@pytest.fixture
def held(config: Path, vendor_pki: VendorPKI) -> list[Transaction]:
    """Two requests that wait: one by a certificate, one by a shared secret."""
    common: dict[str, Any] = {
        "state": State.HELD,
        "subject_der": from_rfc4514("CN=enb-1.ran.example.net"),
        "decided_by": "",
        "unsent": True,
    }
    signer_der = certificate_der(vendor_pki.device("ENB-1").certificate)
    requests = [
        new_transaction(FIRST, signer=1, signer_der=signer_der, san=("dns:enb-1",), **common),
        new_transaction(
            SECOND, signer=2, signer_der=b"\x04\x03ref", body_type=BodyType.p10cr, **common
        ),
    ]

    async def hold(store: RedisStore) -> None:
        for request in requests:
            assert await store.create(request) is None
            await store.hold(request.key, system_clock() + timedelta(hours=1))

    in_redis(config, hold)
    return requests


def approvals(config: Path, *arguments: str) -> Any:
    return run("approvals", *arguments, "--config", config)


def test_the_list(config: Path, held: list[Transaction]) -> None:
    """One line for each: transaction, since when, where, what, who, and what for."""
    ended = approvals(config, "list")
    assert (ended.exit_code, ended.stderr) == (0, "")
    header, *rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert header[0] == "Request"
    assert [row[0] for row in rows] == [request_digest(item)[:20] for item in held]
    assert rows[0][2:4] == ["default", "ir"]
    assert "ENB-1" in rows[0][4]
    assert rows[0][5] == "CN=enb-1.ran.example.net (dns:enb-1)"
    assert rows[1][3:5] == ["p10cr", "a shared secret (acme-radio)"]


@pytest.mark.parametrize("page", [HELP, "docs/operations.md"])
def test_what_is_printed(config: Path, held: list[Transaction], tmp_path: Path, page: str) -> None:
    """The list, and a decision on each of two requests, as it stands in help and on the page."""
    prompt = Prompt(tmp_path, environment={"RA_GATEWAY_CONFIG": str(config)})
    commands = [item.text for item in to_run(page) if item.text.startswith("ra-gateway approvals ")]
    assert len(commands) == 3
    waiting = [request_digest(item) for item in held]
    for command in commands:
        if " list" not in command:
            prompt.texts["7c9e6679f42b11d0a3c5"] = waiting.pop()[:20]
        prompt.succeeds(command)
    assert "No request waits." in prompt.succeeds("ra-gateway approvals list")


def test_the_list_for_programs(config: Path, held: list[Transaction]) -> None:
    """The whole digest, and what a table has no room for."""
    first, second = json.loads(approvals(config, "list", "--json").stdout)
    assert first["request"] == request_digest(held[0])
    assert first["transaction_id"] == held[0].key.transaction_id.hex()
    assert (first["subject"], first["san"]) == ("CN=enb-1.ran.example.net", ["dns:enb-1"])
    assert first["created_at"] == f"{held[0].created_at:%Y-%m-%dT%H:%M:%SZ}"
    assert (second["type"], second["domain"]) == ("p10cr", "acme-radio")
    assert second["requester"] == "a shared secret"


def test_an_empty_list(config: Path) -> None:
    """It says so; to programs it is a list."""
    assert approvals(config, "list", "--json").stdout == "[]\n"
    assert approvals(config, "list").stdout.splitlines()[-1] == "No request waits."


@pytest.mark.parametrize("command,state", [("approve", State.REQUESTED), ("deny", State.REFUSED)])
def test_a_decision(config: Path, held: list[Transaction], command: str, state: State) -> None:
    """By what the list shows, or the beginning of it; who decided is recorded, and logged in one line."""
    config.write_text(f'{config.read_text()}\n[audit]\nsqlite_path = "audit.sqlite"\n')
    first, second = map(request_digest, held)
    ended = approvals(config, command, second[:16].upper(), "--by", "Ann")
    assert ended.exit_code == 0
    line = json.loads(ended.stderr)
    assert (line["event"], line["decided_by"], line["request"], line["transaction_id"]) == (
        "approval", "Ann", second, SECOND.hex(),
    )  # fmt: skip
    stored = in_redis(config, lambda store: store.load(held[1].key))
    assert (stored.state, stored.decided_by) == (state, "Ann")
    # Before it was done, and once it was; by whom the system knows, whatever name was given.
    found = json.loads(
        run("audit", "search", "--action", command, "--json", "--config", config).stdout
    )
    assert [item["detail"]["outcome"] for item in found] == ["asked", "done"]
    assert {item["actor"] for item in found} == {f"operator:{getpass.getuser()}"}
    assert {item["detail"]["transaction_id"] for item in found} == {SECOND.hex()}
    assert second[:20] not in approvals(config, "list").stdout
    assert first[:20] in approvals(config, "list").stdout


def test_who_decides_by_default(
    config: Path, held: list[Transaction], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user who is logged in, also behind sudo."""
    monkeypatch.setenv("SUDO_USER", "otto")
    assert approvals(config, "approve", request_digest(held[0])[:20]).exit_code == 0
    stored = in_redis(config, lambda store: store.load(held[0].key))
    assert stored.decided_by == "otto"


@pytest.mark.parametrize(
    "handle,why",
    [
        ("", "too short"),
        ("f" * 15, "too short"),
        ("f" * 16, "No request"),
        (FIRST.hex(), "No request"),
    ],
)
def test_what_is_not_one_request(
    config: Path, held: list[Transaction], handle: str, why: str
) -> None:
    """Exit code 1, and nothing is decided; a transactionID, which the requester chooses, is no handle."""
    ended = approvals(config, "approve", handle)
    assert (ended.exit_code, why in ended.stderr) == (1, True)
    assert len(approvals(config, "list").stdout.splitlines()) == 3


def test_too_little_of_a_handle(config: Path, held: list[Transaction]) -> None:
    """Fifteen digits could be met by another request on purpose, and are not taken though they tell."""
    ended = approvals(config, "approve", request_digest(held[0])[:15])
    assert (ended.exit_code, "too short" in ended.stderr) == (1, True)


def test_two_requests_under_one_transaction_id(config: Path, held: list[Transaction]) -> None:
    """Of two requesters; each is decided on for itself."""
    twin = dataclasses.replace(
        held[0], key=dataclasses.replace(held[0].key, signer_digest=b"z" * 32)
    )

    async def hold(store: RedisStore) -> None:
        assert await store.create(twin) is None
        await store.hold(twin.key, system_clock() + timedelta(hours=1))

    in_redis(config, hold)
    assert approvals(config, "deny", request_digest(twin)[:20]).exit_code == 0
    assert approvals(config, "approve", request_digest(held[0])[:20]).exit_code == 0
    states = [
        in_redis(config, lambda store, key=key: store.load(key)).state
        for key in (twin.key, held[0].key)
    ]
    assert states == [State.REFUSED, State.REQUESTED]


def test_another_request_in_the_place_of_the_one_that_was_shown(
    config: Path, held: list[Transaction]
) -> None:
    """Under the same transactionID, by the same requester: what was shown is not there, so nothing is decided."""
    shown = request_digest(held[0])
    other = dataclasses.replace(held[0], subject_der=from_rfc4514("CN=another"))

    async def swap(store: RedisStore) -> None:
        over = advance(held[0], Event.polled, expires_at=system_clock() + timedelta(milliseconds=1))
        await store.replace(over)
        await asyncio.sleep(0.05)
        assert await store.create(other) is None

    in_redis(config, swap)
    ended = approvals(config, "approve", shown[:20])
    assert (ended.exit_code, "No request" in ended.stderr) == (1, True)
    assert in_redis(config, lambda store: store.load(other.key)).state is State.HELD


@pytest.mark.parametrize(
    "other",
    [
        {"opening": Exchange(b"another message", b"")},
        {"created_at": system_clock()},
        {"endpoint": "other"},
        {"upstream": "other"},
        {"body_type": BodyType.cr},
        {"subject_der": from_rfc4514("CN=another")},
        {"san": ("dns:another.example.net",)},
        {"public_key_der": b"another key"},
        {"key": TransactionKey("other", b"a" * 32, b"t" * 16)},
        {"key": TransactionKey("acme", b"b" * 32, b"t" * 16)},
        {"key": TransactionKey("acme", b"a" * 32, b"u" * 16)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_differs_is_another_request(other: dict[str, Any]) -> None:
    """Two that look alike, and of which one asks for more, in an extension say, do not share what they go by."""
    key = TransactionKey("acme", b"a" * 32, b"t" * 16)
    shown = new_transaction(key=key, created_at=system_clock() - timedelta(hours=1))
    assert request_digest(dataclasses.replace(shown, **other)) != request_digest(shown)


async def test_what_changes_between_looking_and_deciding(
    held: list[Transaction], config: Path
) -> None:
    """The decision is about the digest, at every attempt."""
    store = transaction_store(load(config).store)
    for wrong in ("", "0" * 64, request_digest(held[1])):
        with pytest.raises(NotHeld, match="took the place"):
            await decide(
                store,
                store,
                held[0].key,
                digest=wrong,
                approve=True,
                decided_by="x",
                clock=system_clock,
            )
    await store.close()


def test_the_memory_store_cannot_be_reached(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Exit code 2, with what to do."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    ended = approvals(config, "list")
    assert (ended.exit_code, "store.kind" in ended.stderr) == (2, True)


@pytest.mark.parametrize("approval,missing", [("required", "redis"), ("unlisted", "[inventory]")])
def test_a_configuration_that_cannot_hold_anything(
    tmp_path: Path, vendor_pki: VendorPKI, approval: str, missing: str
) -> None:
    """check-config says what approval needs."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    text = config.read_text()
    config.write_text(
        text.replace('upstream = "bundled"', f'upstream = "bundled"\napproval = "{approval}"', 1)
    )
    ended = run("check-config", "--config", config)
    assert (ended.exit_code, missing in ended.stderr) == (2, True)
    assert "endpoints.ran.approval" in ended.stderr


def test_what_another_key_sealed_is_told(config: Path, held: list[Transaction]) -> None:
    """Exit code 1: a list that leaves them out looks as if nobody waited."""
    (config.parent / "seal.key").write_text("another key of a gateway, by mistake\n")
    ended = approvals(config, "list")
    assert ended.exit_code == 1
    assert (
        f"{len(held)} more in the list cannot be shown: sealed by a gateway whose" in ended.stderr
    )
    assert "No request waits" not in ended.stdout
