"""Hypothesis strategies: octets in the form of DER, and headers."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIHeader
from ra_gateway.cmp.names import directory_name, from_rfc4514


def elements() -> st.SearchStrategy[bytes]:
    """Octets that are DER in form, with tags as CMP has them, and mean nothing."""
    tags = st.sampled_from(
        [0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x18, 0x30, 0x31, *range(0xA0, 0xBB)]
    )
    leaf = st.builds(asn1.tlv, tags, st.binary(max_size=12))
    return st.recursive(
        leaf,
        lambda inner: st.builds(
            lambda tag, parts: asn1.tlv(tag, *parts), tags, st.lists(inner, max_size=5)
        ),
        max_leaves=20,
    )


oids = st.sampled_from(["1.3.6.1.5.5.7.4.13", "1.2.3.4", "2.999.1"])

octet_strings = st.none() | st.binary(max_size=40)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


moments = st.integers(0, 7_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


names = st.sampled_from(["", "CN=a", "CN=b,O=c", "CN=ä\\,b+O=x"]).map(
    lambda text: directory_name(from_rfc4514(text))
)


infos = st.builds(InfoTypeAndValue, oids, st.none() | elements())


headers = st.builds(
    PKIHeader,
    sender_der=names,
    recipient_der=names,
    pvno=st.integers(0, 300),
    message_time=st.none() | moments,
    protection_alg_der=st.none()
    | st.sampled_from([item.der for item in SIGNATURE_ALGORITHMS.values()]),
    sender_kid=octet_strings,
    recip_kid=octet_strings,
    transaction_id=octet_strings,
    sender_nonce=octet_strings,
    recip_nonce=octet_strings,
    free_text=st.lists(texts, max_size=3).map(tuple),
    general_info=st.lists(infos, max_size=3).map(tuple),
)
