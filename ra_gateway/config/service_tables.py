"""What every service is told: its listener, its log lines, its store."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ra_gateway.config.values import (
    DatabaseURLPath,
    ListenHost,
    RedisAddress,
    RedisURLPath,
    ServerName,
    SQLTable,
)
from ra_gateway.ra.rates import Rate
from ra_gateway.settings.files import PublicPath, SecretPath, WrittenPath
from ra_gateway.settings.values import APIURL, IPNetwork, Name, Seconds, Table, WholeSeconds
from ra_gateway.upstream.tables import OverHTTP

_MANAGEMENT_PORTS_ABOVE = 1000


class ListenerTLSConfig(Table):
    """TLS on a listener, 1.2 or later; changed files are taken up within seconds, without a restart."""

    certificate_path: PublicPath
    """Certificate that clients are shown, PEM, its chain after it."""
    key_path: SecretPath = Field(repr=False)
    """Secret file with its key, PEM; not a key in an HSM."""
    key_password_path: SecretPath | None = Field(default=None, repr=False)
    """Secret file with the password of the key; by default it is not encrypted."""
    client_ca_paths: tuple[PublicPath, ...] = ()
    """CA certificates, PEM: only clients with a certificate below one of them are let in (mutual TLS); an issuing
    CA may be listed without its root. By default all are.
    """


class ListenerConfig(Table):
    """What listeners have in common that others than the operator reach."""

    listen_host: ListenHost = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only; "0.0.0.0" or "::" listens on all."""
    listen_port: int = Field(default=0, ge=0, le=65535)
    """TCP port; 0 takes a free one."""
    max_connections: int = Field(default=1000, ge=1, le=100_000)
    """Most open connections. For one more, the one that has waited longest for its client is closed; none that has a
    request in flight. The default serves a site of a thousand base stations that starts at once; the process's limit of
    open files (ulimit -n) must be some 100 above it.
    """
    max_connections_per_address: int = Field(default=500, ge=1, le=100_000)
    """Most open connections of one IPv4 address or IPv6 /64; for one more, its own that has waited longest is closed.
    The default leaves half of all to the others, and is twice the requests in flight: base stations behind one NAT, or
    a balancer that does not say for whom it speaks, do not meet it.
    """
    trusted_proxies: tuple[IPNetwork, ...] = ()
    """Addresses and networks of your balancers and proxies, which are believed for whom they speak: then the log and
    the limits go by that address. By default nobody is.
    """
    proxy_protocol: Literal["off", "on"] = "off"
    """Whether each connection begins with a header of the PROXY protocol (version 1 or 2; HAProxy: send-proxy-v2), TLS
    behind it. With "on", nobody but `trusted_proxies` is let in.
    """
    forwarded_for: Literal["off", "on"] = "off"
    """Whether X-Forwarded-For counts in requests of `trusted_proxies`: the last address in it that is not one of them.
    Only where all of them append to it; with one that lets it pass, clients write what they like.
    """


class ServerConfig(ListenerConfig):
    """The HTTP listener for CMP, and what it bears before it says no."""

    listen_port: int = Field(default=8080, ge=0, le=65535)
    """TCP port; 0 takes a free one. The default needs no root rights and is the port of many CMP servers."""
    max_body_bytes: int = Field(default=65536, ge=4096, le=16_777_216)
    """Largest request body, in bytes; more is answered with 413. An ML-DSA chain of three exceeds 20 kB; the default
    leaves three times that.
    """
    header_timeout_seconds: Seconds = Field(default=10.0, le=300)
    """Time for a client to send its request line and headers, in seconds. A base station sends them in one packet; the
    default covers two TCP retransmissions on a bad link.
    """
    body_timeout_seconds: Seconds = Field(default=10.0, le=300)
    """Time for a client to send the body, in seconds. The default asks for some 6.5 kB/s at the largest body."""
    idle_timeout_seconds: Seconds = Field(default=75.0, le=3600)
    """Time a kept-alive connection may stay unused, in seconds. The default is the usual one of HTTP servers (nginx),
    and covers the pause between ip and certConf.
    """
    max_requests_in_flight: int = Field(default=256, ge=1, le=100_000)
    """Most requests worked on at a time; more are answered with 503. What was begun before may be a quarter on top
    (docs/capacity.md). The default is four times the 64 connections to an upstream: a short queue for the CA, not a
    long one.
    """
    lame_duck_seconds: float = Field(default=0.0, ge=0, le=600, allow_inf_nan=False)
    """Time after SIGTERM for balancers to see that this process is not ready, in seconds; it serves on meanwhile. The
    default is right without a balancer; with one, give it the time that two of its checks take.
    """
    drain_seconds: Seconds = Field(default=30.0, le=600)
    """Time after SIGTERM for accepted requests to be answered, in seconds. The default is twice an upstream's deadline,
    and what Kubernetes grants a pod.
    """
    tls: ListenerTLSConfig | None = None
    """TLS; without this table plain HTTP is served, which is what base stations speak: CMP protects itself."""


class GatewayServerConfig(ServerConfig):
    """The HTTP listener for CMP, and how many processes serve it."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes that serve on the port, each with a core's worth of work; more than one needs the redis store. A parent
    begins, watches, reloads and ends them as one, and has the management listener. `max_connections`,
    `max_connections_per_address`, `max_requests_in_flight` and the limits of connections to CAs and to Redis are each
    worker's. As many as the cores that nothing else needs; with the bundled CA in the process, all of them.
    """


class ManagementConfig(Table):
    """Metrics (/metrics), health (/livez, /readyz) and /status, on a listener that base stations do not reach."""

    enabled: bool = True
    """Whether it listens."""
    listen_host: ListenHost = "127.0.0.1"
    """Address to listen on. By default this machine alone can ask; on others, let only your monitoring reach it."""
    listen_port: int | None = Field(default=None, ge=0, le=65535)
    """TCP port; 0 takes a free one. By default 1000 above the port of the service, below it where there is none so
    high; several processes with ports of their own then do not meet.
    """
    server_names: tuple[ServerName, ...] = ()
    """Names in Host by which it may be asked, like "gateway.example.net", besides IP addresses, names without a dot and
    that of this machine: no web page that an operator looks at then asks by a name that leads here. With `tls` all may
    be: a browser looks at the certificate.
    """
    tls: ListenerTLSConfig | None = None
    """TLS, with `client_ca_paths` mutual: where others than this machine ask."""

    def port_beside(self, service_port: int) -> int:
        """Return the port, for a service that listens on another."""
        if self.listen_port is not None:
            return self.listen_port
        if not service_port:
            return 0
        above = service_port + _MANAGEMENT_PORTS_ABOVE
        return above if above <= 65535 else service_port - _MANAGEMENT_PORTS_ABOVE


class LogConfig(Table):
    """What is written about every request; never keys, secrets or message bodies."""

    format: Literal["json", "console"] = "json"
    """One JSON object per line for machines, or coloured lines for a terminal."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written; "info" has one line per request."""
    path: WrittenPath | None = None
    """File that lines are appended to; a new one has mode 0640. It is opened anew at every reload, for logrotate. By
    default standard error is written to, which systemd keeps in its journal; so is what finds the disk full.
    """


class StoreConfig(Table):
    """Where transactions are kept: in this process, or in Redis across processes and restarts."""

    kind: Literal["memory", "redis"] = "memory"
    """ "memory" serves one process and forgets at its end; "redis" serves any number and survives."""
    redis_url_path: RedisURLPath | None = Field(default=None, repr=False)
    """File that holds the Redis URL with its password, like redis://:password@host:6379/0, or
    redis+sentinel://user:password@host:26379,host:26379/mymaster/0, or redis+cluster://user:password@host:6379,host:6379
    (docs/deployment.md); mode 0600. Required for redis, unless `redis_url` is given.
    """
    redis_url: RedisAddress | None = Field(default=None, repr=False)
    """The Redis URL itself; only without a password. Not together with `redis_url_path`."""
    redis_wait_replicas: int = Field(default=1, ge=0, le=5)
    """How many replicas of Redis must have a write before a gateway goes by it, so that a failover loses nothing; 0 for
    none. Where fewer follow their master, fewer are waited for: `min-replicas-to-write` of Redis says whether it takes
    writes then.
    """
    seal_key_paths: tuple[SecretPath, ...] = Field(default=(), repr=False)
    """Files that hold the keys by which the gateways seal what they keep in Redis, so that nobody else who can write
    there gets a certificate by it: 32 to 4096 octets each (`openssl rand -hex 32`), mode 0600, the same on all gateways
    and for `ra-gateway approvals`. The first one seals, each one opens: to change keys, add the new one behind, then
    put it in front, then remove the old one. Required for redis.
    """
    key_prefix: Name = "ra_gateway"
    """First part of every Redis key; gateways with the same prefix share their transactions."""
    max_transactions: int = Field(default=100_000, ge=1, le=10_000_000)
    """Most transactions the memory store keeps; one more takes the place of the oldest that is finished, whose
    transactionID stays taken, or is refused with systemUnavail. At some 10 kB each (request, answer, certificates) the
    default is about 1 GB.
    """
    max_transactions_per_signer: int = Field(default=128, ge=8, le=100_000)
    """Most live transactions of one device (certificate or shared secret), in any store; one more is refused with
    systemUnavail until one has expired. Registered RAs are not counted. By default as many as a device opens that
    begins anew every 30 s for an hour. Nodes that share a Redis ask it from a device's ninth on (with a
    smaller limit than 128 sooner), so that a device at many nodes may have up to eight more at each.
    """
    transaction_lifetime_seconds: WholeSeconds = Field(default=3600, ge=60, le=604_800)
    """How long a transaction is remembered, in seconds: until then a repeat gets the same answer and certConf is
    accepted. The default lets a base station reboot and try again.
    """
    act_lifetime_seconds: WholeSeconds = Field(default=604_800, ge=3600, le=2_592_000)
    """How long a certificate that nobody confirmed is tried to be revoked, in seconds, where an upstream has
    `unconfirmed` = "revoke" (or is told of, with "report"). The default outlasts a CA that is down over a long weekend.
    """
    max_held: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most requests that wait for an operator, one for each device; more are refused with systemUnavail. The default is
    more than anybody decides on, at some 10 kB of the store each.
    """
    redis_timeout_seconds: Seconds = Field(default=2.0, le=60)
    """Time for one Redis command, in seconds; then the device gets systemUnavail. Redis usually answers within a
    millisecond; the default leaves the rest of a device's patience (some 30 s) to the CA.
    """
    redis_max_connections: int = Field(default=64, ge=1, le=10_000)
    """Most connections to each Redis server; further commands wait for one within their time. A command takes a
    millisecond, so the default serves some 64,000 a second.
    """


class LimitsConfig(Table):
    """How many requests a second all gateways with the same store take together, so that the CA is asked for no more
    than it can do (docs/capacity.md). Rates for one vendor's devices are in its table. By default there are none.
    """

    requests_per_second: float | None = Field(default=None, gt=0, le=100_000, allow_inf_nan=False)
    """Most new requests a second (ir, cr, kur, p10cr, rr) of devices that are authentic; more are refused with
    systemUnavail, and may come again. Repeats and what follows a request are not counted.
    """
    source_requests_per_second: float | None = Field(
        default=None, gt=0, le=100_000, allow_inf_nan=False
    )
    """Most messages a second of one IPv4 address or IPv6 /64, before anything is verified; more get HTTP 503. What
    belongs to a transaction that this gateway has begun is not counted. Behind a NAT, or a balancer that is not among
    `server.trusted_proxies`, many devices have one address.
    """
    burst_seconds: float = Field(default=10.0, ge=1, le=3600, allow_inf_nan=False)
    """As much as comes in this time, in seconds, may come at once after a calm; for each rate. The default is
    what a site's base stations take to come one after the other.
    """

    def rate(self, per_second: float | None) -> Rate | None:
        """Return a limit of so many a second; None for none."""
        if per_second is None:
            return None
        return Rate(per_second, max(1, math.ceil(per_second * self.burst_seconds)))


class InventoryHTTPConfig(OverHTTP):
    """A list of devices somewhere else, asked over HTTP for each device (docs/registering.md)."""

    url: APIURL
    """Where to post the question, https, like https://oam.example.net/ra-inventory."""
    secret_path: SecretPath = Field(repr=False)
    """File with the secret by which questions are signed (HMAC-SHA256, as Standard Webhooks has it), mode 0600:
    "whsec_" and the base64 of 24 to 64 octets.
    """
    deadline_seconds: Seconds = Field(default=3.0, le=60)
    """Time for an answer, in seconds; then the device gets systemUnavail. The default leaves most of a device's
    patience (some 30 s) to the CA.
    """
    max_response_bytes: int = Field(default=16_384, ge=4096, le=16_777_216)
    """Largest answer taken, in bytes. A subject and its names have some hundred; the default has room for 64 names."""
    max_connections: int = Field(default=16, ge=1, le=10_000)
    """Most connections; further questions wait for one, within their time. The default serves 160 questions a second at
    100 ms each.
    """
    cache_seconds: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)
    """How long an answer is remembered, in seconds; 0 asks each time. A device that was struck from the list is
    admitted that long. The default spares the second question of a device that begins anew at once.
    """
    cache_max_devices: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most devices of which an answer is remembered; the default takes some 5 MB."""


class InventorySQLConfig(Table):
    """A list of devices in a table of a database, read for each device (docs/registering.md); needs the extra `ca`."""

    sqlite_path: PublicPath | None = None
    """File of SQLite."""
    url_path: DatabaseURLPath | None = Field(default=None, repr=False)
    """File that holds the URL of a PostgreSQL database, like postgresql://ra:password@db.example.net/oam; mode 0600. In
    place of `sqlite_path`; needs the extra `postgres`. The role needs no right but SELECT.
    """
    table: SQLTable = "inventory"
    """Table or view, with its schema before a dot where that is none of the search path. It has the columns domain,
    identity, subject, san and enabled, as a CSV file has; identity in lower case or indexed by lower(identity).
    """
    timeout_seconds: Seconds = Field(default=2.0, le=60)
    """Time to look a device up, in seconds; then it gets systemUnavail. A look-up takes milliseconds; the default
    leaves most of a device's patience (some 30 s) to the CA.
    """
    max_connections: int = Field(default=4, ge=1, le=100)
    """Most connections to PostgreSQL; further look-ups wait for one, within their time. The default serves some 4,000
    look-ups a second at a millisecond each.
    """
