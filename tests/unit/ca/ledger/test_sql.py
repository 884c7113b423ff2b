"""How end entities without a subject are called in the ledger."""

from __future__ import annotations

from ra_gateway.ca.ledger.sql import LONGEST_NAME, nameless_name
from ra_gateway.cmp.names import general_names_der


def test_an_end_entity_without_a_subject_has_a_name_of_bounded_length() -> None:
    """Its other names; where they are too long, what they begin with, and what tells it from others alike."""
    few = general_names_der(["ip:192.0.2.7", "dns:enb7.example.net"])
    assert nameless_name(few, b"k" * 32) == "dns:enb7.example.net,ip:192.0.2.7"
    many = general_names_der([f"dns:enb{number:03}.example.net" for number in range(100)])
    one, other = (nameless_name(many, key * 32) for key in (b"k", b"l"))
    assert one.startswith("dns:enb000.example.net,dns:enb001")
    assert len(one) <= LONGEST_NAME
    assert one != other
