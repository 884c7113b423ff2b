"""Dialects: what CAs require and what they ignore, as settings of an upstream by the keys of its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

DIALECTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # RFC 9483 to the letter: kur keeps its device's protection, everything else is re-protected.
    "rfc9483": {
        "kur": "nested",
        "requests": "reprotect",
        "certconf": "forward",
    },
    # The CA that comes with the gateway, in RA mode; in this process, or somewhere else.
    "bundled": {
        "kur": "reprotect",
        "certconf": "forward",
        "replays_repeats": True,
    },
    # EJBCA, alias in RA mode: takes kur from the RA only and finds it by subject and issuer, never reads
    # certConf, knows neither pvno 3 nor genm nor repeats, and leaves some of its refusals unsigned.
    "ejbca-ra": {
        "kur": "reprotect",
        "certconf": "local",
        "kur_names_issuer": True,
        "max_pvno": 2,
        "genm": False,
        "tolerate": ["unprotected_rejection", "unprotected_pkiconf"],
        "unconfirmed": "revoke",
        "replays_repeats": False,
    },
    # EJBCA, alias in client mode: authenticates the old certificate of a kur itself.
    "ejbca-client": {
        "kur": "forward",
        "certconf": "local",
        "max_pvno": 2,
        "genm": False,
        "tolerate": ["unprotected_rejection", "unprotected_pkiconf"],
        "unconfirmed": "report",
        "replays_repeats": False,
    },
    # `openssl cmp -port`: returns the one certificate it was started with.
    "openssl-mock": {
        "kur": "reprotect",
        "certconf": "forward",
        "expected_subject": "any",
    },
    # Nokia NetAct Certificate Manager, and the Insta Certifier it is made from: leave extraCerts out of pkiConf.
    "nokia-ncm": {
        "kur": "reprotect",
        "certconf": "forward",
        "max_pvno": 2,
        "tolerate": ["pkiconf_without_certificates"],
    },
    "insta": {
        "kur": "reprotect",
        "certconf": "forward",
        "max_pvno": 2,
        "tolerate": ["pkiconf_without_certificates"],
    },
    # Siemens' CMP RA component in front of a CA: wants 16 octets of IDs.
    "siemens-ra": {
        "kur": "reprotect",
        "certconf": "forward",
        "ids": "map",
    },
    # Trustpoint, asked under a shared secret: takes cr and no ir, with implicitConfirm, and answers no other type.
    "trustpoint": {
        "kur": "reprotect",
        "certconf": "implicit",
        "ir_as_cr": True,
        "max_pvno": 2,
        "ids": "map",
        "genm": False,
        "unconfirmed": "report",
        "replays_repeats": False,
    },
}
"""The dialects that come with the gateway."""
