"""Records that go elsewhere as well, once they are in the database: to a file, to syslog, or by whatever posts them.

Each stream has a queue and a thread of its own; nothing waits for it. A batch that was not taken is sent again, in its
order. The queue is bounded: what there is no room for is counted, and told in the log. A stream is a copy: what it had
not got when the process ended, or lost, is in the database.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from ra_gateway.audit.records import Record
from ra_gateway.errors import printable

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.audit")

MOST_WAITING: Final = 10_000
"""Records that wait for one stream: some 10 MB."""

MOST_IN_BATCH: Final = 100

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0
"""Between two attempts: twice as long after each failure."""

SEND_SECONDS: Final = 5.0
"""To connect, and for a write."""

_WARNED: Final = frozenset({"refused", "rejected", "failed", "unconfirmed"})
"""Outcomes that syslog has as warnings."""

_LOG_AUDIT: Final = 13
"""Facility of RFC 5424: log audit."""


class Entry(dict[str, Any]):
    """A record as it goes out: number, at (RFC 3339), actor, action, subject, detail, hash."""


class Sender(Protocol):
    """Where a stream goes to; used by one thread. Every method may raise OSError."""

    def send(self, entries: Sequence[Entry]) -> None:
        """Hand records over, all of them or so that they may come again."""

    def close(self) -> None:
        """Let go of what was opened."""


class QueuedStream:
    """Sends records on in the background (`trail.Stream`).

    Args:
        name: Of the stream in the configuration.
    """

    def __init__(self, name: str, sender: Sender, most_waiting: int = MOST_WAITING) -> None:
        self.name, self._sender, self._most_waiting = name, sender, most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._ends_at: float | None = None
        self._thread: threading.Thread | None = None
        self._is_losing = False
        self.lost = 0
        """Records that there was no room for."""
        self.problem = ""
        """Why it takes nothing; "" if it does."""

    def put(self, number: int, record: Record, hash_: bytes) -> None:
        """Take one record; neither waits nor raises."""
        entry = Entry(
            number=number,
            at=_rfc3339(record.at),
            actor=record.actor,
            action=record.action,
            subject=record.subject,
            detail=record.detail,
            hash=hash_.hex(),
        )
        with self._changed:
            is_full = len(self._waiting) >= self._most_waiting
            begins = is_full and not self._is_losing
            self._is_losing = is_full
            if is_full:
                self.lost += 1
            else:
                self._waiting.append(entry)
                self._changed.notify()
        if begins:
            log.error(
                "audit.stream_lost",
                stream=self.name,
                detail=self.problem or "it is too slow",
                todo="what it does not get is in the database of the trail: ra-gateway audit export",
            )
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"audit-{self.name}", daemon=True
            )
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Hand over what waits, within so long, and end."""
        with self._changed:
            self._ends_at = time.monotonic() + seconds
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds + 2 * SEND_SECONDS)

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._changed:
                while not self._waiting and self._ends_at is None:
                    self._changed.wait()
                batch = [
                    self._waiting[index] for index in range(min(MOST_IN_BATCH, len(self._waiting)))
                ]
            if not batch:
                break
            try:
                self._sender.send(batch)
            except Exception as error:
                self._failed(error)
                with self._changed:
                    if self._ends_at is not None and time.monotonic() + pause > self._ends_at:
                        break
                    self._changed.wait_for(lambda: self._ends_at is not None, pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
            if self.problem:
                self.problem = ""
                log.info("audit.stream_up", stream=self.name, lost=self.lost)
        if self._waiting:
            log.error(
                "audit.stream_lost",
                stream=self.name,
                detail=self.problem,
                waiting=len(self._waiting),
                todo="the process has ended; what it did not get is in the database of the trail",
            )
        self._sender.close()

    def _failed(self, error: Exception) -> None:
        why = printable(str(error), 200) or type(error).__name__
        is_first, self.problem = not self.problem, why
        if is_first:
            log.error(
                "audit.stream_down",
                stream=self.name,
                detail=why,
                todo="see that it takes records; they wait meanwhile, as many as there is room for",
            )


def _rfc3339(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03}Z"


class FileSender:
    """Appends an object of JSON a line, and opens the file anew for each batch: it may be moved away at any time.

    Args:
        path: Made with mode 0640.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, entries: Sequence[Entry]) -> None:
        lines = "".join(f"{json.dumps(entry)}\n" for entry in entries).encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o640)
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Return: nothing stays open."""


class SyslogSender:
    """Sends to syslog by RFC 5424: over UDP, over TCP with octet counting (RFC 6587), or to a Unix socket.

    Args:
        address: "udp://host:port", "tcp://host:port" or "unix:/path".
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._host = socket.gethostname()[:255] or "-"

    def send(self, entries: Sequence[Entry]) -> None:
        try:
            is_stream = self._address.startswith("tcp:")
            if is_stream and self._socket is not None and _has_ended(self._socket):
                self.close()
            if self._socket is None:
                self._socket = self._connected()
            for entry in entries:
                octets = self.message(entry)
                self._socket.sendall(b"%d %b" % (len(octets), octets) if is_stream else octets)
        except OSError:
            self.close()
            raise

    def message(self, entry: Entry) -> bytes:
        """Return a record as a message of RFC 5424, the record as JSON in ASCII."""
        severity = 4 if entry["detail"].get("outcome") in _WARNED else 6
        action = entry["action"][:32]
        return (
            f"<{8 * _LOG_AUDIT + severity}>1 {entry['at']} {self._host} ra-gateway {os.getpid()} {action} - "
            f"{json.dumps(entry)}"
        ).encode("ascii")

    def _connected(self) -> socket.socket:
        if self._address.startswith("unix:"):
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                made.settimeout(SEND_SECONDS)
                made.connect(self._address.removeprefix("unix:"))
            except OSError:
                made.close()
                raise
            return made
        scheme, _, place = self._address.partition("://")
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        if scheme == "tcp":
            return socket.create_connection((host, int(port)), SEND_SECONDS)
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_DGRAM
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(SEND_SECONDS)
            made.connect(where)
        except OSError:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Close the connection."""
        made, self._socket = self._socket, None
        if made is not None:
            made.close()


def _has_ended(connection: socket.socket) -> bool:
    """Tell whether the server has closed a connection: what is written to it would be lost, and nobody would say so."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


class CallSender:
    """Hands records to a function.

    Args:
        post: Raises where they were not taken.
        end: Called at the end.
    """

    def __init__(self, post: Callable[[Sequence[Entry]], None], end: Callable[[], None]) -> None:
        self._post, self._end = post, end

    def send(self, entries: Sequence[Entry]) -> None:
        self._post(entries)

    def close(self) -> None:
        """End it."""
        self._end()
