"""Which Redis server has a key: the only one, the master that Sentinels name, or one of a Cluster's masters.

redis-py makes connections, and has the errors and the URLs. What its own clients of Sentinels and Clusters would do is
done here: they repeat a command whose connection broke, and only `RedisStore` knows what a repetition means; and nobody
there waits until replicas have what was written (WAIT).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NotConnected

from ra_gateway.redis_url import Kind, RedisURL, parse_redis_url
from ra_gateway.stores.redis_connections import Connections

_MOST_REDIRECTIONS: Final = 5
_TRY_AGAIN_SECONDS: Final = 0.05

_BETWEEN_MAPS_SECONDS: Final = 0.1
"""Between two looks at who has which slots of a Cluster."""

_CLOSE_SECONDS: Final = 10
"""A replica that has said nothing for longer is not waited for, as `min-replicas-max-lag` of Redis has it."""

_NOT_DONE: Final = ("READONLY", "UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN")
"""How Redis says that it is no longer, or not yet, the one to write to."""


UNTOLD: Final = "this Redis user may not ask INFO"


class NotReplicated(ResponseError):
    """Too few replicas have what was written."""


def is_passing(error: Exception) -> bool:
    """Tell whether Redis refuses because another server has, or will have, the key."""
    if isinstance(error, ReadOnlyError | ClusterDownError):
        return True
    # Redis before 7 wraps what a command in a script says into the script's own error.
    words = str(error)
    return isinstance(error, ResponseError) and any(
        words.startswith(code) or f" -{code} " in words for code in _NOT_DONE
    )


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a master told of itself.

    Args:
        problem: Why it told nothing; "" where it did.
        replicas: How many follow it closely.
        appends: Whether it writes what it is told into a file (`appendonly`).
        append_problem: Whether it could not write that file.
        policy: `maxmemory-policy`.
        max_memory: Octets; 0 for no limit.
        can_wait: Whether WAIT may be used.
    """

    problem: str = ""
    replicas: int = 0
    appends: bool = False
    append_problem: bool = False
    policy: str = ""
    max_memory: int = 0
    can_wait: bool = True

    @classmethod
    def of(cls, info: bytes, *, can_wait: bool) -> ServerState:
        """Return what INFO says."""
        lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
        told = {name: value for name, _, value in lines}
        replicas = [
            dict(part.partition("=")[::2] for part in value.split(","))
            for name, value in told.items()
            if name.startswith("slave") and name[5:].isdigit()
        ]
        close = [
            each
            for each in replicas
            if each.get("state") == "online" and int(each.get("lag", 0)) <= _CLOSE_SECONDS
        ]
        return cls(
            replicas=len(close),
            appends=told.get("aof_enabled") == "1",
            append_problem=told.get("aof_last_write_status", "ok") != "ok",
            policy=told.get("maxmemory_policy", ""),
            max_memory=int(told.get("maxmemory", 0)),
            can_wait=can_wait,
        )

    @property
    def forgets(self) -> str:
        """How it may lose transactions, after which a repeat could issue twice; "" for not, or not told."""
        if self.problem:
            return ""
        if self.policy not in ("", "noeviction") and self.max_memory:
            return f"throws transactions away when its memory is full: maxmemory-policy is {self.policy}"
        if self.append_problem:
            return "cannot write its append-only file"
        if not self.appends and not self.replicas:
            return (
                "forgets everything when it is restarted: appendonly is off, and it has no replica"
            )
        return ""


class Node:
    """One server, and the connections to it.

    Args:
        address: Host and port, or the path of a socket.
        options: As redis-py's pool takes them.
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        self.address = address
        self._connections = Connections(options)
        self.state: ServerState | None = None
        """None while it was not asked."""

    async def ask(self, *command: Any) -> Any:
        """Have it carry one command out, and return its reply.

        Raises:
            ResponseError: It refuses.
        """
        (reply,) = await self.ask_all([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send it commands in one go, and return the reply to each: an exception where it refuses."""
        return await self._connections.ask(commands)

    async def look(self, *, waits: bool) -> ServerState:
        """Ask it what it keeps, and who follows it.

        Args:
            waits: Whether WAIT is to be used, which an ACL may forbid.
        """
        try:
            info = await self.ask("INFO")
        except NoPermissionError:
            self.state = ServerState(UNTOLD)
            return self.state
        state = ServerState.of(info, can_wait=True)
        if waits and state.replicas:
            try:
                await self.ask("WAIT", 0, 0)
            except NoPermissionError:
                state = ServerState.of(info, can_wait=False)
        self.state = state
        return state

    def disconnect(self, *, only_idle: bool = False) -> None:
        """End its connections; it may be used again."""
        self._connections.close(only_idle=only_idle)

    async def end(self) -> None:
        """End its connections, and return when they are gone; it may be used again."""
        await self._connections.end()


class Servers(ABC):
    """The servers of one URL, connected to when they are first used.

    Args:
        options: Of connections to servers, as redis-py takes them.
        seconds: For an answer.
        wait_replicas: So many replicas must have a write before it counts; fewer where fewer follow.
    """

    def __init__(
        self, url: RedisURL, options: dict[str, Any], seconds: float, wait_replicas: int
    ) -> None:
        self.url = url
        self._options, self._seconds, self._wait_replicas = options, seconds, wait_replicas
        self._nodes: dict[str, Node] = {}
        self.changes = 0
        """How often another master took over."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How log lines call this Redis: where it is, never the password."""

    @abstractmethod
    async def master(self, key: str) -> Node:
        """Return the server that has a key."""

    @abstractmethod
    async def masters(self) -> list[Node]:
        """Return the servers that are written to."""

    @property
    @abstractmethod
    def known(self) -> list[Node]:
        """The masters as far as they are known now."""

    def lost(self, node: Node) -> None:
        """Note that a server does not answer, or is no master any more."""
        return  # the only one stays

    def moved(self, error: MovedError, by: Node) -> Node:
        """Return the server that a server names as the one with the key."""
        raise NotConnected(
            f"{by.address} is one of a Cluster: write redis+cluster:// in the place of redis://"
        ) from error

    async def run(self, key: str, *command: Any, copied: bool = False) -> Any:
        """Have the server that has a key carry a command out.

        Args:
            copied: Whether replicas must have what it wrote.

        Raises:
            NotReplicated: Too few have it.
        """
        node, asking = await self.master(key), False
        for _ in range(_MOST_REDIRECTIONS):
            try:
                return await self._send(node, command, asking=asking, copied=copied)
            except MovedError as error:  # an AskError, too
                node, asking = self.moved(error, node), False
            except AskError as error:
                node, asking = self._node(_address(error.host, error.port, node)), True
            except TryAgainError:
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
            except BaseException as error:
                # Cancelled, too: it took too long.
                if not isinstance(error, ResponseError) or is_passing(error):
                    self.lost(node)
                if isinstance(error, ResponseError) and is_passing(error):
                    # Idle connections lead to the same server: it is no longer the primary.
                    node.disconnect(only_idle=True)
                raise
        raise NotConnected(f"{node.address}: keys are being moved to another server of the Cluster")

    async def _send(self, node: Node, command: Sequence[Any], *, asking: bool, copied: bool) -> Any:
        wanted = await self._wanted(node) if copied else 0
        commands = [command]
        if asking:
            commands.insert(0, ("ASKING",))
        if wanted:
            commands.append(("WAIT", wanted, math.ceil(self._seconds * 250)))
        replies = await node.ask_all(commands)
        reply = replies[int(asking)]
        if isinstance(reply, Exception):
            raise reply
        if wanted and replies[-1] != wanted:
            await self._require(node, replies[-1])
        return reply

    async def _wanted(self, node: Node) -> int:
        """Return how many replicas are to be waited for."""
        if not self._wait_replicas:
            return 0
        state = node.state or await node.look(waits=True)
        return min(self._wait_replicas, state.replicas) if state.can_wait else 0

    async def _require(self, node: Node, count: Any) -> None:
        """Take so many replicas for enough, if as many follow.

        Raises:
            NotReplicated: More do.
        """
        if isinstance(count, Exception):  # the server was demoted meanwhile
            raise NotConnected(str(count)) from count
        wanted = min(self._wait_replicas, (await node.look(waits=True)).replicas)
        if count < wanted:
            raise NotReplicated(
                f"{node.address}: {count} of {wanted} replicas have what was written"
            )

    @property
    def forgets(self) -> str:
        """Which masters may lose transactions, and how; "" for none."""
        return "; ".join(
            f"{node.address} {node.state.forgets}"
            for node in self.known
            if node.state is not None and node.state.forgets
        )

    async def probe(self, name: str, lifetime_ms: int) -> None:
        """Write to each master, and ask what it keeps; one that can be written to is enough.

        Raises:
            Exception: What the first one said, where none can be written to.
        """
        nodes = await self.masters()
        problems = await asyncio.gather(
            *(self._probe(node, name, lifetime_ms) for node in nodes), return_exceptions=True
        )
        for node, problem in zip(nodes, problems, strict=True):
            if isinstance(problem, BaseException):
                node.state = ServerState(type(problem).__name__)
                self.lost(node)
        errors = [problem for problem in problems if isinstance(problem, BaseException)]
        if len(errors) == len(nodes) and errors:
            raise errors[0]

    async def _probe(self, node: Node, name: str, lifetime_ms: int) -> None:
        async with asyncio.timeout(self._seconds / 4):
            key = self._key_at(node, name)
            # A real write: a read-only replica, or a Redis whose memory is full, still answers PING.
            await node.ask("SET", key, 1, "PX", lifetime_ms)
            await node.look(waits=bool(self._wait_replicas))

    def _key_at(self, node: Node, name: str) -> str:
        """Return a key that a master has."""
        return name

    def _node(self, address: str) -> Node:
        if address not in self._nodes:
            host, _, port = address.rpartition(":")
            where = {"host": host.strip("[]"), "port": int(port)}
            self._nodes[address] = Node(address, self._options | where)
        return self._nodes[address]

    def _keep(self, addresses: Iterable[str]) -> None:
        """Let go of other servers."""
        gone = self._nodes.keys() - set(addresses)
        for address in gone:
            self._nodes.pop(address).disconnect()

    async def end(self) -> None:
        """End all connections, and return when they are gone; it may be used again."""
        await asyncio.gather(*(node.end() for node in self._nodes.values()))


class Script:
    """A script of `redis_scripts`; its keys are in one slot.

    Args:
        copied: Whether replicas must have what it wrote.
    """

    def __init__(self, servers: Servers, text: str, *, copied: bool = False) -> None:
        self._servers, self._text, self._copied = servers, text, copied
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Run it at the server that has the keys."""
        call = len(keys), *keys, *args
        try:
            return await self._servers.run(
                keys[0], "EVALSHA", self._digest, *call, copied=self._copied
            )
        except NoScriptError:
            return await self._servers.run(keys[0], "EVAL", self._text, *call, copied=self._copied)


class OneServer(Servers):
    """A server whose address is in the URL."""

    def __init__(
        self, url: RedisURL, options: dict[str, Any], seconds: float, wait_replicas: int
    ) -> None:
        super().__init__(url, options, seconds, wait_replicas)
        self._only = Node(url.names[0], options)
        self._nodes[url.names[0]] = self._only

    @property
    def name(self) -> str:
        return f"redis {self._only.address}/{self._options.get('db', 0)}"

    async def master(self, key: str) -> Node:
        return self._only

    async def masters(self) -> list[Node]:
        return [self._only]

    @property
    def known(self) -> list[Node]:
        return [self._only]


class Sentinels(Servers):
    """The master that Sentinels name: most of them are asked, and the youngest answer counts."""

    def __init__(
        self, url: RedisURL, options: dict[str, Any], seconds: float, wait_replicas: int
    ) -> None:
        super().__init__(url, options, seconds, wait_replicas)
        user, password = url.sentinel_login
        own = {
            "username": user or None,
            "password": password or None,
            "db": 0,
            "max_connections": 2,
        }
        self._sentinels = []
        for text, name in zip(url.urls, url.names, strict=True):
            where = {
                key: value for key, value in parse_url(text).items() if key in ("host", "port")
            }
            self._sentinels.append(Node(name, options | own | where))
        self._lock = asyncio.Lock()
        self._current: Node | None = None
        self._last = ""

    @property
    def name(self) -> str:
        return f"redis {self.url.master}/{self._options.get('db', 0)} (Sentinels {', '.join(self.url.names)})"

    async def master(self, key: str) -> Node:
        return self._current or await self._find()

    async def masters(self) -> list[Node]:
        return [self._current or await self._find()]

    @property
    def known(self) -> list[Node]:
        return [self._current] if self._current else []

    def lost(self, node: Node) -> None:
        if node is self._current:
            self._current = None

    async def _find(self) -> Node:
        async with self._lock:
            if self._current is not None:
                return self._current
            address = await self._ask()
            self.changes += self._last not in ("", address)
            self._last = address
            self._current = self._node(address)
            self._keep([address])
            return self._current

    async def _ask(self) -> str:
        """Return the master's address.

        Raises:
            NotConnected: No Sentinel names one.
        """
        asked = [asyncio.create_task(self._answer(each)) for each in self._sentinels]
        answers: list[tuple[int, str]] = []
        problems = []
        try:
            for answered in asyncio.as_completed(asked):
                try:
                    answers.append(await answered)
                except (RedisError, OSError, RuntimeError) as error:
                    problems.append(str(error) or type(error).__name__)
                if 2 * len(answers) > len(asked):
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not answers:
            raise NotConnected(
                f"no Sentinel names a master: {'; '.join(sorted(set(problems)))[:200]}"
            )
        return max(answers)[1]

    async def _answer(self, sentinel: Node) -> tuple[int, str]:
        """Return since which failover which address is the master's, as one Sentinel has it."""
        async with asyncio.timeout(self._seconds / 4):
            reply = await sentinel.ask("SENTINEL", "MASTER", self.url.master)
        told = dict(zip(reply[::2], reply[1::2], strict=True))
        flags = told[b"flags"].split(b",")
        if b"s_down" in flags or b"o_down" in flags:
            raise NotConnected("the master is down")
        return int(told[b"config-epoch"]), _joined(told[b"ip"].decode(), int(told[b"port"]))

    async def end(self) -> None:
        await super().end()
        await asyncio.gather(*(sentinel.end() for sentinel in self._sentinels))


class Cluster(Servers):
    """The masters of a Cluster, each of which has some of the slots."""

    def __init__(
        self, url: RedisURL, options: dict[str, Any], seconds: float, wait_replicas: int
    ) -> None:
        super().__init__(url, options, seconds, wait_replicas)
        self._lock = asyncio.Lock()
        self._slots: list[str] = []
        self._looked_at, self._is_stale = -math.inf, True

    @property
    def name(self) -> str:
        return f"redis cluster {', '.join(self.url.names)}"

    async def master(self, key: str) -> Node:
        await self._refresh()
        return self._of_slot(key_slot(key.encode()))

    def _of_slot(self, slot: int) -> Node:
        if not self._slots[slot]:
            raise NotConnected(f"no master of the Cluster has slot {slot}")
        return self._node(self._slots[slot])

    async def masters(self) -> list[Node]:
        await self._refresh()
        return self.known

    @property
    def known(self) -> list[Node]:
        return [self._node(address) for address in sorted(set(self._slots)) if address]

    def lost(self, node: Node) -> None:
        self._is_stale = True

    def moved(self, error: MovedError, by: Node) -> Node:
        self._is_stale = True
        self._slots[error.slot_id] = _address(error.host, error.port, by)
        return self._of_slot(error.slot_id)

    def _key_at(self, node: Node, name: str) -> str:
        for number in range(REDIS_CLUSTER_HASH_SLOTS):
            key = f"{name}:{number}"
            if self._slots[key_slot(key.encode())] == node.address:
                return key
        return name

    async def _refresh(self) -> None:
        """Learn who has which slots, if that may have changed."""
        if not self._is_stale:
            return
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if not self._is_stale or (
                self._slots and now - self._looked_at < _BETWEEN_MAPS_SECONDS
            ):
                return
            self._looked_at = now
            before = set(self._slots)
            self._slots = await self._map()
            self._is_stale = False
            after = set(self._slots)
            self.changes += len(after - before) if before else 0
            self._keep(after | set(self.url.names))

    async def _map(self) -> list[str]:
        """Return the address of each slot's master, "" for none.

        Raises:
            NotConnected: No server tells it.
        """
        places = list({*self._slots, *self.url.names} - {""})
        random.shuffle(places)
        problem: Exception | None = None
        for place in places:
            node = self._node(place)
            try:
                async with asyncio.timeout(self._seconds / 4):
                    rows = await node.ask("CLUSTER", "SLOTS")
            except (RedisError, OSError, RuntimeError) as error:
                problem = error
                continue
            slots = [""] * REDIS_CLUSTER_HASH_SLOTS
            for first, last, (host, port, *_), *_replicas in rows:
                address = _address((host or b"").decode(), port, node)
                slots[first : last + 1] = [address] * (last + 1 - first)
            return slots
        raise NotConnected(f"no server of the Cluster answers: {problem or ''}".strip())


def open_servers(
    url: str, password: str | None, seconds: float, most_connections: int, wait_replicas: int
) -> Servers:
    """Return the servers of a URL; nothing is connected yet.

    Args:
        password: Used when the URL has none.
        seconds: For an answer.
        most_connections: To each server.
        wait_replicas: So many replicas must have a write before it counts; fewer where fewer follow.

    Raises:
        ValueError: It is no URL of a Redis; the text does not repeat it.
    """
    kinds: dict[Kind, type[Servers]] = {
        Kind.server: OneServer,
        Kind.sentinel: Sentinels,
        Kind.cluster: Cluster,
    }
    try:
        where = parse_redis_url(url)
        options: dict[str, Any] = {"password": password, **parse_url(where.urls[0])}
        if where.urls[0].startswith("rediss:") and "ssl_cert_reqs" not in options:
            options.setdefault("ssl_check_hostname", True)
        # Set last: replies in another shape cannot be read, and only `RedisStore._ask` knows what a repetition
        # means. It keeps the time, too: with a `socket_timeout`, redis-py on Python 3.11 lets
        # a call go on that was cancelled while it was sending.
        options |= {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": seconds,
            "timeout": None,  # of waiting for a connection
            "max_connections": most_connections,
        }
        BlockingConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call]
        return kinds[where.kind](where, options, seconds, wait_replicas)
    except (ValueError, TypeError, RedisError):
        pass
    raise ValueError(  # its text never contains the URL, because of the password
        "not a Redis URL: expected redis://host:port/database, rediss:// or unix://, redis+sentinel:// or "
        "redis+cluster://, with options as in redis-py"
    )


def _address(host: str, port: int, told_by: Node) -> str:
    """Return an address as a server of a Cluster tells it; without a host it is on that server's own."""
    return _joined(host if host not in ("", "?") else told_by.address.rpartition(":")[0], port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
