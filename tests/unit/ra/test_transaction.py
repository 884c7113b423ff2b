"""The state machine of a transaction, and its flat form for stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ra_gateway.cmp.codes import BodyType
from ra_gateway.ra.transaction import (
    TRANSITIONS,
    Event,
    Exchange,
    IllegalTransition,
    PlannedResponse,
    State,
    Transaction,
    TransactionKey,
    advance,
)
from tests.support.transactions import new_transaction

NOW = datetime(2030, 1, 1, tzinfo=UTC)

# Written out a second time on purpose: a change of the table must be a change here, too.
MOVES = {
    ("held", "approved"): "requested",
    ("held", "denied"): "refused",
    ("held", "polled"): "held",
    ("requested", "issued"): "issued",
    ("requested", "granted"): "granted",
    ("requested", "revoked"): "revoked",
    ("requested", "informed"): "informed",
    ("requested", "refused"): "refused",
    ("requested", "failed"): "failed",
    ("requested", "released"): "requested",
    ("requested", "taken_over"): "requested",
    ("requested", "deferred"): "requested",
    ("requested", "polled"): "requested",
    ("issued", "confirm"): "confirming",
    ("issued", "rejected"): "rejected",
    ("issued", "withdraw"): "withdrawing",
    ("issued", "delivered"): "issued",
    ("confirming", "accepted"): "confirmed",
    ("confirming", "rejected"): "rejected",
    ("confirming", "failed"): "failed",
    ("confirming", "released"): "confirming",
    ("confirming", "taken_over"): "confirming",
    ("confirming", "deferred"): "confirming",
    ("confirming", "polled"): "confirming",
    ("confirmed", "delivered"): "confirmed",
    ("rejected", "delivered"): "rejected",
    ("rejected", "withdraw"): "withdrawing",
    ("granted", "delivered"): "granted",
    ("revoked", "delivered"): "revoked",
    ("informed", "delivered"): "informed",
    ("refused", "delivered"): "refused",
    ("failed", "delivered"): "failed",
    ("failed", "withdraw"): "withdrawing",
    ("withdrawing", "withdrawn"): "withdrawn",
    ("withdrawing", "failed"): "failed",
    ("withdrawing", "released"): "withdrawing",
    ("withdrawing", "taken_over"): "withdrawing",
    ("withdrawing", "delivered"): "withdrawing",
    ("withdrawn", "delivered"): "withdrawn",
}
FINAL = {
    State.CONFIRMED,
    State.GRANTED,
    State.REVOKED,
    State.INFORMED,
    State.REFUSED,
    State.WITHDRAWN,
}

PAIRS = [(state, event) for state in State for event in Event]

moments = st.datetimes(timezones=st.just(UTC))
octets = st.binary(max_size=40)
names = st.text(max_size=20)
planned = st.builds(
    PlannedResponse,
    octets,
    octets,
    st.booleans(),
    octets,
    st.lists(st.binary(min_size=1, max_size=40), max_size=3).map(tuple),
)
exchanges = st.builds(
    Exchange,
    octets,
    octets,
    st.none() | octets,
    waiting=st.booleans(),
    delivered=st.booleans(),
    planned=st.none() | planned,
    ca_nonce=octets,
    upstream_nonce=octets,
    recip_nonce=octets,
)
transactions = st.builds(
    Transaction,
    key=st.builds(TransactionKey, names, octets, octets),
    state=st.sampled_from(State),
    version=st.integers(min_value=0),
    body_type=st.sampled_from(BodyType),
    endpoint=names,
    upstream=names,
    variant=names,
    signer_der=octets,
    sender_nonce=octets,
    cert_req_id=st.integers(),
    subject_der=octets,
    opening=exchanges,
    lease_until=moments,
    created_at=moments,
    expires_at=moments,
    confirmation=st.none() | exchanges,
    response_nonce=octets,
    certificate_der=octets,
    confirm_status=st.booleans(),
    public_key_der=octets,
    san=st.none() | st.lists(names, max_size=3).map(tuple),
    target_der=octets,
    info_type=names,
    implicit_asked=st.booleans(),
    confirm_until=st.none() | moments,
    polling=st.none() | exchanges,
    polling_nonce=octets,
    withdrawal=st.none() | exchanges,
    decided_by=names,
    unsent=st.booleans(),
    failure=names,
)


def in_state(state: State, *, version: int = 0) -> Transaction:
    return Transaction(
        key=TransactionKey("acme", b"f" * 32, b"t" * 16),
        state=state,
        version=version,
        body_type=BodyType.ir,
        endpoint="default",
        upstream="ca",
        variant="reprotect",
        signer_der=b"signer",
        sender_nonce=b"n" * 16,
        cert_req_id=355,
        subject_der=b"subject",
        opening=Exchange(b"d" * 32, b"upstream"),
        lease_until=NOW + timedelta(seconds=30),
        created_at=NOW,
        expires_at=NOW + timedelta(minutes=5),
    )


def test_the_table_is_the_one_written_here() -> None:
    """Nothing was added to the table, nothing left it."""
    assert {(a.value, e.value): b.value for (a, e), b in TRANSITIONS.items()} == MOVES


@pytest.mark.parametrize("state,event", PAIRS, ids=lambda part: part.value)
def test_every_pair_moves_as_the_table_says_or_not_at_all(state: State, event: Event) -> None:
    """A pair outside the table raises; one inside leads where it says, one version on."""
    before = in_state(state, version=7)
    target = MOVES.get((state.value, event.value))
    if target is None:
        with pytest.raises(IllegalTransition, match=event.value):
            advance(before, event)
    else:
        after = advance(before, event)
        assert (after.state, after.version) == (State(target), 8)


def test_final_states_have_no_way_out() -> None:
    """What is over stays over, though a device that waited may still be told; everything else can move."""
    moving = {state for (state, event) in TRANSITIONS if event is not Event.delivered}
    assert moving == set(State) - FINAL


def test_every_state_is_reachable_from_the_first() -> None:
    """No state is dead, and none is entered except from HELD and REQUESTED on."""
    reached = {State.HELD, State.REQUESTED}
    for _ in State:
        reached |= {target for (state, _), target in TRANSITIONS.items() if state in reached}
    assert reached == set(State)


def test_advance_fills_in_what_the_event_brings_and_leaves_the_original_alone() -> None:
    """Changes are in the new value only; everything else is carried over."""
    before = in_state(State.REQUESTED)
    after = advance(before, Event.issued, certificate_der=b"certificate")
    assert (before.state, before.version, before.certificate_der) == (State.REQUESTED, 0, b"")
    assert (after.state, after.version, after.certificate_der) == (State.ISSUED, 1, b"certificate")
    assert after.key is before.key
    assert after.opening is before.opening


def test_an_exchange_is_found_by_the_digest_of_its_request() -> None:
    """A repeat belongs to the exchange with the same bytes; other bytes belong to none."""
    opened = in_state(State.ISSUED)
    assert opened.exchange_for(b"d" * 32) is opened.opening
    assert opened.exchange_for(b"c" * 32) is None
    confirming = advance(opened, Event.confirm, confirmation=Exchange(b"c" * 32, b""))
    assert confirming.exchange_for(b"c" * 32) is confirming.confirmation
    assert confirming.exchange_for(b"x" * 32) is None


@given(transactions)
def test_fields_give_back_the_same_transaction(transaction: Transaction) -> None:
    """from_fields(to_fields(t)) == t for every t."""
    assert Transaction.from_fields(transaction.to_fields()) == transaction


def test_half_a_character_survives_storage_too() -> None:
    """So Python reads an argument of a command that is no UTF-8, such as the name of who approves."""
    transaction = new_transaction(decided_by="J\udcfcrgen", profile="Zoë")
    assert Transaction.from_fields(transaction.to_fields()) == transaction


@given(transactions)
def test_fields_are_flat_bytes(transaction: Transaction) -> None:
    """A store needs to know nothing but names and byte strings."""
    for name, value in transaction.to_fields().items():
        assert isinstance(name, str)
        assert isinstance(value, bytes)


@given(transactions, st.data())
def test_fields_that_are_missing_are_never_guessed(
    transaction: Transaction, data: st.DataObject
) -> None:
    """Without a field that every transaction has, there is no transaction."""
    fields = transaction.to_fields()
    optional = {
        f"{exchange}.{part}"
        for exchange in ("opening", "confirmation", "polling", "withdrawal")
        for part in (
            *(
                "request_digest",
                "upstream_nonce",
                "response_der",
                "waiting",
                "delivered",
                "ca_nonce",
                "recip_nonce",
            ),
            *("planned.body_der", "planned.implicit_confirm"),
            *(f"planned.chain.{place}" for place in range(3)),
        )
    } - {"opening.request_digest"}
    needed = sorted(fields.keys() - optional)
    del fields[data.draw(st.sampled_from(needed))]
    with pytest.raises(ValueError, match="transaction without"):
        Transaction.from_fields(fields)


@pytest.mark.parametrize("schema", [b"1", b"2", b"3", b"6", b'"5"', b"null"])
def test_another_schema_is_refused(schema: bytes) -> None:
    """A node does not guess at what a newer or older one has written."""
    fields = in_state(State.ISSUED).to_fields()
    fields["plain"] = fields["plain"].replace(b'"schema":5', b'"schema":' + schema)
    with pytest.raises(ValueError, match="schema"):
        Transaction.from_fields(fields)


BEFORE_PLAIN = frozenset(
    (
        "schema", "domain", "state", "body_type", "lease_until", "created_at", "expires_at", "san",
        "confirm_until", "endpoint", "upstream", "variant", "cert_req_id", "confirm_status",
        "confirm_locally", "may_retry", "info_type", "implicit_asked", "decided_by", "unsent",
        "profile", "failure", "ca_cert_req_id", "possession",
    )
)  # fmt: skip
BEFORE_BYTES = frozenset(
    (
        "version", "plain", "signer_digest", "transaction_id", "signer_der", "sender_nonce",
        "subject_der", "response_nonce", "certificate_der", "public_key_der", "target_der",
        "polling_nonce", "ca_transaction_id", "request_der", "credential_digest",
    )
)  # fmt: skip
"""What release 0.2.0 stored in each transaction, and wants in it; exchanges besides, which are the same."""


@pytest.mark.parametrize("state", State)
def test_gateways_of_two_releases_share_a_store(state: State) -> None:
    """Each reads what the other one stored, as they do while one after the other is brought up to date."""
    fields = in_state(state).to_fields()
    plain = json.loads(fields["plain"])
    assert plain.keys() >= BEFORE_PLAIN
    assert fields.keys() >= BEFORE_BYTES
    assert plain["schema"] == 5
    before = {name: value for name, value in fields.items() if name in BEFORE_BYTES or "." in name}
    kept = {name: value for name, value in plain.items() if name in BEFORE_PLAIN}
    before["plain"] = json.dumps(kept).encode()
    assert Transaction.from_fields(before).state is state
