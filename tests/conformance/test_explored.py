"""Every interleaving of gateways, store, CA and device while one thing goes wrong; `make explore` has more."""

from __future__ import annotations

import pytest

from ra_gateway.ra import ca_exchange, late_certificates, transaction
from ra_gateway.ra.transaction import TRANSITIONS, Event, State
from tests.explore.explorer import INVARIANTS, Explorer
from tests.explore.settings import SETTINGS
from tests.explore.sides import Setting, Sides
from tests.support.pki import OperatorPKI, VendorPKI

FLOORS = dict(zip(SETTINGS, (600, 600, 1500, 1500, 2200), strict=True))
"""Fewer states would mean that something is not tried any more."""


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_whatever_goes_wrong_once(
    setting: Setting, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """A loss, a repeat, a crash, a pause or a store that fails, at any step: the invariants hold."""
    found = Explorer(Sides(setting, vendor_pki, operator_pki), disturbances=1).explore()
    assert found.broken == {}
    assert found.complete
    assert found.states >= FLOORS[setting]
    assert found.met >= {State.REQUESTED, State.ISSUED, State.CONFIRMING, State.CONFIRMED}


# --- that it can fail -----------------------------------------------------------------------------------------


def test_a_table_that_skips_the_intent_is_found(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that says it is confirmed before the CA has heard of it."""
    broken = {**TRANSITIONS, (State.ISSUED, Event.confirm): State.CONFIRMED}
    monkeypatch.setattr(transaction, "TRANSITIONS", broken)
    explorer = Explorer(Sides(SETTINGS[0], vendor_pki, operator_pki), disturbances=0)
    way = explorer.explore(stop_at_first=True).broken[INVARIANTS[3]]
    assert way[-1] == "certConf(1)#1: the store takes confirmed"


def test_a_message_that_is_sent_again_is_found(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA that does not replay is asked once more by whoever takes over, as if nobody had asked it."""
    monkeypatch.setattr(ca_exchange, "_must_not_resend", lambda *_: None)
    explorer = Explorer(Sides(SETTINGS[1], vendor_pki, operator_pki), disturbances=1)
    way = explorer.explore(stop_at_first=True).broken[INVARIANTS[0]]
    assert way[2:4] == ["ir(1)#1: the CA answers", "ir(1)#1: its gateway dies"]
    assert way[-1] == "ir(1)#3: the CA answers"


def test_a_certificate_that_is_let_go_of_is_found(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away for a moment when the CA has answered, and nothing is stored later."""

    async def nothing(*_: object, **__: object) -> bytes:
        return b""

    monkeypatch.setattr(late_certificates, "store_later", nothing)
    explorer = Explorer(Sides(SETTINGS[3], vendor_pki, operator_pki), disturbances=2)
    way = explorer.explore(stop_at_first=True).broken[INVARIANTS[7]]
    assert way[2] == "ir(1)#1: the CA answers"
    assert way[3].startswith("ir(1)#1: the store does not take ")
    assert "the device is switched off" in way


def test_a_store_that_does_not_compare_is_found(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Two gateways take over the same transaction, and both ask the CA."""
    sides = Sides(SETTINGS[1], vendor_pki, operator_pki)
    explorer = Explorer(sides, disturbances=2, compares=False)
    way = explorer.explore(stop_at_first=True).broken[INVARIANTS[0]]
    assert way[-2:] == ["ir(1)#3: the store takes requested", "ir(1)#3: the CA answers"]
