"""Every kind of upstream. A kind is one module: its table, and what `open` makes of it.

A kind of another package comes by an entry point, under `kind = "plugin"` (`plugins`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal, get_args

from ra_gateway.ra.endpoints import UpstreamSettings
from ra_gateway.upstream.plugins import PluginUpstream
from ra_gateway.upstream.pool import CMPHTTPUpstream
from ra_gateway.upstream.rest import RestUpstream
from ra_gateway.upstream.step_ca import StepCAUpstream
from ra_gateway.upstream.tables import IssuingCAs
from ra_gateway.upstream.vault import VaultUpstream


class BundledUpstream(UpstreamSettings, IssuingCAs):
    """The CA that comes with the gateway, in the same process; needs `[ca]`."""

    deadline_seconds: ClassVar[float] = 15.0
    kind: Literal["bundled"]
    """ "bundled": the CA of `[ca]`, in this process."""
    device_info: bool = True
    """Whether the ledger is told whose a base station is and what its vendor calls it, for `ca history`."""
    replays_repeats: bool = True
    """Whether the CA answers an identical repeat with the same answer; the bundled one does, so after a crash the
    gateway may ask it again.
    """


RemoteUpstream = CMPHTTPUpstream | StepCAUpstream | VaultUpstream | RestUpstream | PluginUpstream
UpstreamConfig = BundledUpstream | RemoteUpstream
"""The table of an upstream: which one is told by its `kind`."""

TABLES: Final[Mapping[str, type[BundledUpstream | RemoteUpstream]]] = {
    get_args(table.model_fields["kind"].annotation)[0]: table for table in get_args(UpstreamConfig)
}
"""The table of every kind, by its name."""
