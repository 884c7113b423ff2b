"""Every metric that a service of ours exposes: its name, its labels, and what it says.

docs/metrics.md is written from this; the values come from facts (`collecting`) and from the parts of a service
(`ra_gateway.app.readings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ra_gateway.durations import Durations


class Kind(StrEnum):
    """What the values of a metric are."""

    counter = "counter"  # only grows, and begins anew with the process
    gauge = "gauge"
    histogram = "histogram"  # of seconds


class Together(StrEnum):
    """What the values that several workers of one service have of a metric are together."""

    sum = "sum"
    least = "least"
    most = "most"  # what each of them sees of the same thing
    parent = "parent"  # whatever the workers say: their parent tells


# Each is itself: as keys they are looked up for every message.
@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric.

    Args:
        name: As it is exposed and queried; counters end in _total.
        meaning: One plain sentence.
        labels: Names out of `LABELS`.
        together: Of the workers of one service; by default the sum of counters and histograms, the most of gauges.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    together: Together | None = None


class Reading(NamedTuple):
    """A value of a metric at this moment.

    Args:
        labels: Values, in the order of the family's names.
    """

    family: Family
    labels: tuple[str, ...]
    value: float | Durations


LABELS: Final = {
    "by": "`gateway` or `ca`; with the bundled CA in its process, a gateway has both",
    "digest": "of the configuration in force, or of a part of it, 16 hex digits",
    "domain": "vendor's name, `operator`, `mac:` or `ra:` and an endpoint's name; empty where nobody vouched",
    "durable": "`true` where the answer may leave only after a flush to the disk, else `false`",
    "endpoint": "name of an endpoint of the configuration; of the CA `ra` or `client`",
    "event": "`issued`, `confirmed`, `rejected` (by its device) `unconfirmed` (in time: it was revoked) or "
    "`lost` (the CA may have issued it, and its answer cannot be had again)",
    "fail_info": "PKIFailureInfo of RFC 9810 that was answered; empty where nothing failed",
    "file": "in the CA's directory",
    "fingerprint": "first 16 hex digits of the certificate's SHA-256",
    "form": "`full` or `delta`",
    "issuer": "key identifier (hex) of one of the CA's issuing CAs",
    "kind": "`CRL` or `OCSP`",
    "limit": "`source` (of one address), `vendor`, `all`, or `background` (exchanges whose devices were told to wait)",
    "listener": "`cmp`, `management` or `status`",
    "master": "host and port of a master of Redis, as the Cluster or the Sentinels name it",
    "of": "whose it is: a domain, an upstream or an endpoint of the configuration, a table of TLS, or `ra`",
    "outcome": "how it went: one of a fixed list",
    "part": "what has to work for a service to be ready, as in /readyz",
    "ra": "name under which the bundled CA knows an RA",
    "reason": "`refused` (too many), `timed_out` (the client was too slow) or `let_go` (for another one)",
    "rule": "requirement (R1 to R160, T1 to T54) or clause that refused; one of a fixed list",
    "source": "file or URL of the configuration; `learned` for all that came with certificates",
    "stage": "`decode`, `authenticate`, `authorize`, `status`, `sign`, `open`, `ca` or `respond`",
    "state": "one of a fixed list",
    "status": "HTTP status, or `none` where the connection was closed without an answer",
    "stream": "name of a stream of the audit trail",
    "subject": "of the certificate, at most 128 characters",
    "type": "body type of the message (`ir`, `certConf` ...), or `unreadable`",
    "upstream": "name of an upstream of the configuration; empty where the bundled CA tells it",
    "url": "of the upstream, as it is configured, without user name and password",
    "use": "`anchor`, `intermediate`, `ra`, `ra_chain`, `registered_ra`, `pinned`, `tls` or `ca`",
    "version": "of this software",
}
"""Labels, and what bounds their values: none is taken from what a device sends."""

# --- messages ---------------------------------------------------------------------------------------------------

MESSAGES: Final = Family(
    "ra_gateway_messages_total",
    Kind.counter,
    "CMP messages that were answered.",
    ("by", "endpoint", "domain", "type", "outcome", "fail_info", "rule"),
)
MESSAGE_SECONDS: Final = Family(
    "ra_gateway_message_duration_seconds",
    Kind.histogram,
    "From the first octet decoded to the answer ready, the CA's time included.",
    ("by", "type"),
)
STAGE_SECONDS: Final = Family(
    "ra_gateway_stage_duration_seconds",
    Kind.histogram,
    "Time that a message spent in one stage of the gateway.",
    ("stage",),
)
IN_FLIGHT: Final = Family(
    "ra_gateway_messages_in_flight",
    Kind.gauge,
    "Messages that the gateway is answering now, those of configurations that were replaced included.",
    together=Together.sum,
)
CERTIFICATES: Final = Family(
    "ra_gateway_certificates_total",
    Kind.counter,
    "Certificates that were issued, confirmed, given back, or lost sight of.",
    ("by", "upstream", "event"),
)

# --- CAs --------------------------------------------------------------------------------------------------------

UPSTREAM_UP: Final = Family(
    "ra_gateway_upstream_up",
    Kind.gauge,
    "1 while a CA can be sent messages, as /readyz says it.",
    ("upstream",),
    together=Together.least,
)
UPSTREAM_DOWNS: Final = Family(
    "ra_gateway_upstream_downs_total",
    Kind.counter,
    "How often a CA could be sent nothing any more.",
    ("upstream",),
    together=Together.most,
)
UPSTREAM_SECONDS: Final = Family(
    "ra_gateway_upstream_exchange_duration_seconds",
    Kind.histogram,
    "Exchanges with a CA by how they ended: answered, unavailable, broken (no CMP), or cancelled.",
    ("upstream", "outcome"),
)
UPSTREAM_FAILURES: Final = Family(
    "ra_gateway_upstream_failures_total",
    Kind.counter,
    "Messages that a CA gave no answer, or none that can be used.",
    ("upstream", "fail_info", "rule"),
)
UPSTREAM_TRIES: Final = Family(
    "ra_gateway_upstream_tries_total",
    Kind.counter,
    "Messages sent to one URL of a CA, by how that went: answered or failed.",
    ("upstream", "url", "outcome"),
)
UPSTREAM_RETRIES: Final = Family(
    "ra_gateway_upstream_retries_total",
    Kind.counter,
    "Messages that were sent to another URL of a CA, after one had failed.",
    ("upstream",),
)
UPSTREAM_HEALTHY: Final = Family(
    "ra_gateway_upstream_url_healthy",
    Kind.gauge,
    "1 while messages go to a URL of a CA as usual: its breaker is closed, and its last probe was answered.",
    ("upstream", "url"),
    together=Together.least,
)
UPSTREAM_OPEN: Final = Family(
    "ra_gateway_upstream_breaker_open",
    Kind.gauge,
    "1 while a URL of a CA is left out because it failed.",
    ("upstream", "url"),
)
UPSTREAM_OPENINGS: Final = Family(
    "ra_gateway_upstream_breaker_openings_total",
    Kind.counter,
    "How often a URL of a CA was left out, each trial that failed included.",
    ("upstream", "url"),
)

# --- store ------------------------------------------------------------------------------------------------------

STORE_UP: Final = Family(
    "ra_gateway_store_up",
    Kind.gauge,
    "1 while the store answers: transactions of the gateway, the CA's ledger.",
    ("by",),
    together=Together.least,
)
STORE_LOSSES: Final = Family(
    "ra_gateway_store_losses_total",
    Kind.counter,
    "How often the store was lost.",
    ("by",),
    together=Together.most,
)
STORE_SECONDS: Final = Family(
    "ra_gateway_store_round_trip_duration_seconds",
    Kind.histogram,
    "Round trips to Redis by how they ended: answered or failed (a second attempt counts again).",
    ("outcome",),
)
STORE_MASTER_UP: Final = Family(
    "ra_gateway_store_master_up",
    Kind.gauge,
    "Masters of Redis that are written to: 1 if it took the last probe.",
    ("master",),
    together=Together.least,
)
STORE_REPLICAS: Final = Family(
    "ra_gateway_store_replicas",
    Kind.gauge,
    "Replicas that follow a master of Redis closely.",
    ("master",),
    together=Together.least,
)
STORE_FORGETS: Final = Family(
    "ra_gateway_store_forgets",
    Kind.gauge,
    "1 if Redis may lose transactions: it evicts, or keeps nothing over a restart.",
)
STORE_CHANGES: Final = Family(
    "ra_gateway_store_master_changes_total",
    Kind.counter,
    "How often another master of Redis took over.",
    together=Together.most,
)
STORE_EMPTIED: Final = Family(
    "ra_gateway_store_emptied_total",
    Kind.counter,
    "How often Redis came back without what it was told, or was emptied, as this gateway saw it first.",
)
STORE_STRANGE: Final = Family(
    "ra_gateway_store_not_believed_total",
    Kind.counter,
    "Records in Redis that no gateway wrote, or none with our keys.",
)
AUDIT_UP: Final = Family(
    "ra_gateway_audit_up",
    Kind.gauge,
    "1 while the database of the audit trail takes records.",
    together=Together.least,
)
AUDIT_RECORDS: Final = Family(
    "ra_gateway_audit_records_total", Kind.counter, "Records that are in the audit trail."
)
AUDIT_WAITING: Final = Family(
    "ra_gateway_audit_waiting",
    Kind.gauge,
    "Records that wait for the database of the audit trail.",
    together=Together.sum,
)
AUDIT_LOST: Final = Family(
    "ra_gateway_audit_lost_total",
    Kind.counter,
    "Records that there was no room for while the database took none.",
)
AUDIT_STREAM_UP: Final = Family(
    "ra_gateway_audit_stream_up",
    Kind.gauge,
    "1 while a stream of the audit trail takes records.",
    ("stream",),
    together=Together.least,
)
AUDIT_STREAM_LOST: Final = Family(
    "ra_gateway_audit_stream_lost_total",
    Kind.counter,
    "Records that there was no room for while a stream took none; they are in the database.",
    ("stream",),
)
TRANSACTIONS: Final = Family(
    "ra_gateway_transactions",
    Kind.gauge,
    "Live transactions in the memory of this process, by state; of Redis, see the changes below.",
    ("state",),
    together=Together.sum,
)
UNFINISHED: Final = Family(
    "ra_gateway_transactions_unfinished",
    Kind.gauge,
    "Those of them that make no room for new ones.",
)
TRANSACTIONS_LIMIT: Final = Family(
    "ra_gateway_transactions_limit",
    Kind.gauge,
    "Most live transactions that the memory of this process takes.",
)
ENTERED: Final = Family(
    "ra_gateway_transaction_changes_total",
    Kind.counter,
    "Transactions that this process has brought into a state.",
    ("state",),
)
HELD: Final = Family(
    "ra_gateway_approvals_held",
    Kind.gauge,
    "Requests that wait for an operator, in the whole store.",
)
HELD_LIMIT: Final = Family(
    "ra_gateway_approvals_held_limit", Kind.gauge, "Most requests that may wait for an operator."
)
SCHEDULED: Final = Family(
    "ra_gateway_scheduled",
    Kind.gauge,
    "Certificates whose confirmation is awaited, or that are to be revoked, in the whole store.",
)
OVERDUE: Final = Family(
    "ra_gateway_scheduled_overdue",
    Kind.gauge,
    "Those of them whose time has come and that no gateway has dealt with yet.",
)

# --- listeners --------------------------------------------------------------------------------------------------

CONNECTIONS: Final = Family(
    "ra_gateway_http_connections",
    Kind.gauge,
    "Connections that are open.",
    ("listener",),
    together=Together.sum,
)
CONNECTIONS_LIMIT: Final = Family(
    "ra_gateway_http_connections_limit",
    Kind.gauge,
    "Most connections.",
    ("listener",),
    together=Together.sum,
)
CONNECTIONS_CLOSED: Final = Family(
    "ra_gateway_http_connections_closed_total",
    Kind.counter,
    "Connections that a limit has closed.",
    ("listener", "reason"),
)
REQUESTS: Final = Family(
    "ra_gateway_http_requests_total",
    Kind.counter,
    "Requests that came to a handler.",
    ("listener",),
)
REQUESTS_IN_FLIGHT: Final = Family(
    "ra_gateway_http_requests_in_flight",
    Kind.gauge,
    "Requests that are with a handler now.",
    ("listener",),
    together=Together.sum,
)
REQUESTS_LIMIT: Final = Family(
    "ra_gateway_http_requests_in_flight_limit",
    Kind.gauge,
    "Most requests with a handler.",
    ("listener",),
    together=Together.sum,
)
REFUSALS: Final = Family(
    "ra_gateway_http_refused_total",
    Kind.counter,
    "Requests that were refused below CMP, by HTTP status.",
    ("listener", "status"),
)
TURNED_AWAY: Final = Family(
    "ra_gateway_turned_away_total",
    Kind.counter,
    "Requests that were turned away because there were too many, by the limit.",
    ("limit",),
)

# --- what ends --------------------------------------------------------------------------------------------------

EXPIRY: Final = Family(
    "ra_gateway_certificate_expiry_timestamp_seconds",
    Kind.gauge,
    "When a certificate that the gateway was given ends, in Unix time; days left: (it - time()) / 86400.",
    ("use", "of", "subject", "fingerprint"),
    together=Together.least,
)
CA_EXPIRY: Final = Family(
    "ra_gateway_ca_expiry_timestamp_seconds",
    Kind.gauge,
    "When a certificate of the bundled CA, or the CRL of its root, ends, in Unix time.",
    ("file", "subject"),
    together=Together.least,
)
CA_RA_EXPIRY: Final = Family(
    "ra_gateway_ca_ra_expiry_timestamp_seconds",
    Kind.gauge,
    "When the newest certificate ends of an RA that the bundled CA hears, in Unix time; of the hundred that end first.",
    ("ra",),
    together=Together.least,
)
CRL_NEXT_UPDATE: Final = Family(
    "ra_gateway_crl_next_update_timestamp_seconds",
    Kind.gauge,
    "nextUpdate of the CRLs of one source, the earliest, in Unix time.",
    ("domain", "source"),
    together=Together.least,
)
REVOCATION_SOURCES: Final = Family(
    "ra_gateway_revocation_sources",
    Kind.gauge,
    "CRLs and OCSP responders of a domain: fresh, stale (nobody can tell by them), or failing (fresh or not).",
    ("domain", "kind", "state"),
)
CREDENTIAL_CHANGES: Final = Family(
    "ra_gateway_credential_changes_total",
    Kind.counter,
    "Changes of the RA's certificate.",
    together=Together.most,
)

# --- the bundled CA ---------------------------------------------------------------------------------------------

LEDGER_CERTIFICATES: Final = Family(
    "ra_gateway_ca_ledger_certificates",
    Kind.gauge,
    "Serial numbers in the ledger by state, counted once a minute at most.",
    ("state",),
)
LEDGER_WRITE_SECONDS: Final = Family(
    "ra_gateway_ca_ledger_write_duration_seconds",
    Kind.histogram,
    "From asking the ledger to write to its commit, the wait for other writers included.",
    ("durable",),
)
LEDGER_READ_SECONDS: Final = Family(
    "ra_gateway_ca_ledger_read_duration_seconds", Kind.histogram, "Look-ups in the ledger."
)
LEDGER_COMMITS: Final = Family(
    "ra_gateway_ca_ledger_commits_total",
    Kind.counter,
    "Commits of the ledger; one may have what several messages ask for.",
)
CA_BACKUP: Final = Family(
    "ra_gateway_ca_backup_timestamp_seconds",
    Kind.gauge,
    "When `ra-gateway ca backup` last wrote all of the ledger, in Unix time; none before the first backup.",
)
CA_BACKUP_DUE: Final = Family(
    "ra_gateway_ca_backup_due_timestamp_seconds",
    Kind.gauge,
    "When the next backup of the ledger should be there (`ca.backup_hours`), in Unix time; none where none is awaited.",
    together=Together.least,
)
CA_CRLS: Final = Family(
    "ra_gateway_ca_crls_total", Kind.counter, "CRLs that the CA made.", ("issuer", "form")
)
CA_CRL_NEXT_UPDATE: Final = Family(
    "ra_gateway_ca_crl_next_update_timestamp_seconds",
    Kind.gauge,
    "nextUpdate of the CA's newest CRL, in Unix time.",
    ("issuer", "form"),
    together=Together.least,
)
CA_CRL_DUE: Final = Family(
    "ra_gateway_ca_crl_due_timestamp_seconds",
    Kind.gauge,
    "When the CA is to make the next CRL, in Unix time; what is left until nextUpdate is for when it cannot.",
    ("issuer", "form"),
    together=Together.least,
)
CA_CRL_OCTETS: Final = Family(
    "ra_gateway_ca_crl_size_bytes", Kind.gauge, "Size of the CA's newest CRL.", ("issuer", "form")
)

# --- the process ------------------------------------------------------------------------------------------------

READY: Final = Family(
    "ra_gateway_ready",
    Kind.gauge,
    "1 while each part works that has to, as /readyz says it.",
    ("part",),
    together=Together.least,
)
WORKERS: Final = Family(
    "ra_gateway_workers",
    Kind.gauge,
    "Processes of a gateway that has several (`server.workers`): `wanted`, and those that are `serving`.",
    ("state",),
)
WORKERS_ENDED: Final = Family(
    "ra_gateway_workers_ended_total",
    Kind.counter,
    "Workers that ended though nobody had told them to, or could not begin, and are begun anew.",
)
RELOADS: Final = Family(
    "ra_gateway_reloads_total",
    Kind.counter,
    "Times that the configuration was read again: reloaded or refused.",
    ("by", "outcome"),
    together=Together.parent,
)
RELOAD_GOOD: Final = Family(
    "ra_gateway_last_reload_successful",
    Kind.gauge,
    "0 from a reload that was refused until one that was not.",
    ("by",),
    together=Together.parent,
)
INVENTORY_READS: Final = Family(
    "ra_gateway_inventory_reads_total",
    Kind.counter,
    "Times that a changed file of the inventory was read: changed or refused.",
    ("outcome",),
    together=Together.most,
)
INVENTORY_CURRENT: Final = Family(
    "ra_gateway_inventory_current",
    Kind.gauge,
    "0 from a file of the inventory that was refused until one that was not.",
    together=Together.least,
)
FILES_CURRENT: Final = Family(
    "ra_gateway_credential_files_current",
    Kind.gauge,
    "0 from files of a certificate and its key that changed and cannot be used until they can.",
    ("of",),
    together=Together.least,
)
CONFIGURATION: Final = Family(
    "ra_gateway_configuration_info",
    Kind.gauge,
    "Always 1; the configuration in force.",
    ("digest",),
)
SHARED_CONFIGURATION: Final = Family(
    "ra_gateway_shared_configuration_info",
    Kind.gauge,
    "Always 1; what several nodes should have in common of it: all but the tables `server`, `ca.server`, `management`, "
    "`log` and `ra`, how `ca.status` is reached, directories of files, and what stands in the files.",
    ("by", "digest"),
)
LOOP_LAG: Final = Family(
    "ra_gateway_loop_lag_duration_seconds",
    Kind.histogram,
    "How late the process came to what was due, looked at ten times a second: so long everything in it stood still.",
)
CLOCK_STEADY: Final = Family(
    "ra_gateway_clock_steady",
    Kind.gauge,
    "0 from a step of the wall clock by more than a minute until it has run evenly for an hour: nothing is revoked, "
    "forgotten or signed as a CRL by it.",
    together=Together.least,
)
BUILD: Final = Family("ra_gateway_build_info", Kind.gauge, "Always 1.", ("version",))
LEFT_OUT: Final = Family(
    "ra_gateway_series_left_out",
    Kind.gauge,
    "Values that were not exposed because their metric has too many; anything but 0 is a fault of ours.",
)

FAMILIES: Final = tuple(item for item in list(globals().values()) if isinstance(item, Family))
"""All of them, in the order of this file."""
