"""What grows in few places: a body type, and a setting of an upstream."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ra_gateway.cmp import codes
from ra_gateway.cmp.codes import BodyType
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.ra.settings import EndpointSettings, UpstreamSettings
from ra_gateway.settings.values import Table
from tests.support import requests
from tests.support.answers import status_of
from tests.support.credentials import cmp_credential
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI, make_key


async def test_a_certificate_request_of_another_type_is_one_row(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ccr, say, is enrolled once it has a row in cmp/codes.py."""
    for rows in (codes.CERT_RESPONSE_TO, codes.RESPONSE_TO):
        monkeypatch.setitem(rows, BodyType.ccr, BodyType.ccp)
    world = World.make(vendor_pki, operator_pki, endpoint={"body_types": frozenset({BodyType.ccr})})
    key = make_key("p256")
    template = requests.template(key, "CN=enb-1.ran.example.net")
    der = await requests.request(
        world, cmp_credential(world.device()), key, template, body_type=BodyType.ccr
    )
    answer = await world.ask(der)
    assert answer.body_type is BodyType.ccp
    assert status_of(answer).issued


@pytest.mark.parametrize("of, table", [(Upstream, UpstreamSettings), (Endpoint, EndpointSettings)])
def test_no_setting_is_copied(of: Any, table: type[Table]) -> None:
    """It is declared in its table, and read there."""
    assert not {field.name for field in fields(of)} & set(table.model_fields)
