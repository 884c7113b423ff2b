"""Redis servers that take over from each other: a master that Sentinels watch, and a Cluster."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

MASTER = "mymaster"

_DOWN_AFTER_MS = 1000
_SLOTS = 16384
_BUS = 10_000
"""What a Cluster adds to a port for the one of its bus."""

_REPLICATES_SOON = ("--repl-ping-replica-period", "1", "--repl-diskless-sync-delay", "0")


class _Sentinel(RedisServer):
    """One Sentinel.

    Args:
        lines: Of its configuration, which it rewrites.
    """

    def __init__(self, directory: Path, port: int, lines: Sequence[str]) -> None:
        file = directory / "sentinel.conf"
        head = f"port {port}", "bind 127.0.0.1"
        file.write_text("\n".join((*head, *lines)) + "\n")
        super().__init__(directory, arguments=(str(file), "--sentinel"))
        self.port = port


@dataclass
class SentinelGroup:
    """A master, its replica, and three Sentinels that agree on the next one in some two seconds."""

    servers: list[RedisServer]
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        """URL of the store."""
        places = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{places}/{MASTER}/0"


@dataclass
class ClusterGroup:
    """Three masters, and a replica of each behind them."""

    servers: list[RedisServer]

    @property
    def url(self) -> str:
        """URL of the store; it lists not all of them."""
        return f"redis+cluster://127.0.0.1:{self.servers[1].port},127.0.0.1:{self.servers[2].port}"


@contextmanager
def sentinel_group(directory: Path) -> Iterator[SentinelGroup]:
    """Run one, on loopback."""
    with ExitStack() as stack:
        master = _started(stack, RedisServer(_made(directory / "0"), persistent=True))
        replica = _started(stack, _replica(_made(directory / "1"), master))
        _until_followed(replica)
        ports = [free_port() for _ in range(3)]
        ids = [f"{number + 1:040x}" for number in range(3)]
        sentinels = []
        for own, port in enumerate(ports):
            others = [number for number in range(3) if number != own]
            lines = (
                f"sentinel myid {ids[own]}",
                f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2",
                f"sentinel down-after-milliseconds {MASTER} {_DOWN_AFTER_MS}",
                f"sentinel failover-timeout {MASTER} 4000",
                f"sentinel known-replica {MASTER} 127.0.0.1 {replica.port}",
                *(
                    f"sentinel known-sentinel {MASTER} 127.0.0.1 {ports[each]} {ids[each]}"
                    for each in others
                ),
            )
            sentinels.append(_started(stack, _Sentinel(_made(directory / f"s{own}"), port, lines)))
        yield SentinelGroup([master, replica], sentinels)


@contextmanager
def cluster_group(directory: Path) -> Iterator[ClusterGroup]:
    """Run one, on loopback; the files by which its servers know each other are written in advance."""
    ports = _bus_ports(6)
    ids = [f"{number + 1:040x}" for number in range(6)]
    with ExitStack() as stack:
        servers = []
        for own, port in enumerate(ports):
            place = _made(directory / str(own))
            lines = [
                _node(number, ids, ports, "myself," if number == own else "") for number in range(6)
            ]
            (place / "nodes.conf").write_text(
                "\n".join((*lines, "vars currentEpoch 3 lastVoteEpoch 0")) + "\n"
            )
            options = (
                *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
                *("--cluster-node-timeout", str(_DOWN_AFTER_MS)),
                *("--cluster-replica-validity-factor", "0"),
                *_REPLICATES_SOON,
            )
            server = RedisServer(place, persistent=True, options=options)
            server.port = port
            servers.append(_started(stack, server))
        for server in servers:
            _until(server, "CLUSTER INFO", b"cluster_state:ok")
        for server in servers[3:]:
            _until_followed(server)
        yield ClusterGroup(servers)


def _node(number: int, ids: Sequence[str], ports: Sequence[int], myself: str) -> str:
    """Return one line of nodes.conf."""
    place = f"{ids[number]} 127.0.0.1:{ports[number]}@{ports[number] + _BUS} {myself}"
    if number >= 3:
        return f"{place}slave {ids[number - 3]} 0 0 {number - 2} connected"
    first, last = number * _SLOTS // 3, (number + 1) * _SLOTS // 3 - 1
    return f"{place}master - 0 0 {number + 1} connected {first}-{last}"


def _replica(directory: Path, master: RedisServer) -> RedisServer:
    options = "--replicaof", "127.0.0.1", str(master.port), *_REPLICATES_SOON
    return RedisServer(directory, persistent=True, options=options)


def _until_followed(replica: RedisServer) -> None:
    _until(replica, "INFO replication", b"master_link_status:up")


def _until(server: RedisServer, command: str, said: bytes) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while said not in server.command(command):
        assert time.monotonic() < deadline, f"{command} never said {said.decode()}"
        time.sleep(0.02)


def _started(stack: ExitStack, server: RedisServer) -> RedisServer:
    server.start()
    stack.callback(server.stop)
    return server


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _bus_ports(count: int) -> list[int]:
    """Return free ports whose bus has a free one, too, below those that the system hands out."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 22_700)
        if port not in found and all(map(_is_free, (port, port + _BUS))):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
