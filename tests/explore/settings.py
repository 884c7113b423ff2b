"""What is explored: the ways in which a CA may behave, and how long a device is held up."""

from __future__ import annotations

from typing import Final

from ra_gateway.ra.settings import CertConf, Unconfirmed
from tests.explore.sides import Setting

SETTINGS: Final = (
    Setting(
        "CA that hears certConf and replays", CertConf.forward, Unconfirmed.leave, replays=True
    ),
    Setting("CA that hears certConf", CertConf.forward, Unconfirmed.leave, replays=False),
    Setting("CA that replays", CertConf.local, Unconfirmed.revoke, replays=True),
    Setting("CA that does neither", CertConf.local, Unconfirmed.revoke, replays=False),
    Setting(
        "device that is told to wait",
        CertConf.forward,
        Unconfirmed.revoke,
        replays=True,
        patience_seconds=2.0,
    ),
)
