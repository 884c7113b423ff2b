"""A CA over HTTP that answers what a script says, for tests of the ways to it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MESSAGE = b"0\x03a request"
ANSWER = b"0\x03an answer"
CMP_TYPE = "application/pkixcmp"

Script = Callable[["Visit"], Awaitable[None]]


class Visit(NamedTuple):
    """One request to the scripted CA, and how to answer it."""

    head: str
    body: bytes
    number: int
    writer: asyncio.StreamWriter

    def answer(
        self,
        status: int = 200,
        body: bytes = ANSWER,
        *,
        content_type: str | None = CMP_TYPE,
        headers: str = "",
        length: int | None = None,
    ) -> None:
        lines = [f"HTTP/1.1 {status} Whatever"]
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        if length != -1:
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        self.writer.write(("\r\n".join(lines) + "\r\n" + headers + "\r\n").encode() + body)

    def close(self) -> None:
        self.writer.close()


class ScriptedCA:
    """Reads requests and leaves the answering to a script; counts connections and requests.

    A HEAD is a probe: answered without the script, and not counted as a visit.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.visits: list[Visit] = []
        self.connections_count = 0
        self.open_count = 0
        self.port = 0
        self.probe_status = 405
        self.probes_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections_count += 1
        self.open_count += 1
        try:
            while not (self._stopped or writer.is_closing()):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("HEAD "):
                    self.probes_count += 1
                    Visit(head, b"", -1, writer).answer(self.probe_status, b"", content_type=None)
                    continue
                length = next(
                    int(line.partition(":")[2])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length:")
                )
                body = await reader.readexactly(length)
                self.visits.append(Visit(head, body, len(self.visits), writer))
                await self.script(self.visits[-1])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The client has gone, or the test is over.
        finally:
            self.open_count -= 1
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        """End all connections, also those that were accepted and not yet served."""
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)


def answering(*args: Any, **more: Any) -> Script:
    async def script(visit: Visit) -> None:
        visit.answer(*args, **more)

    return script


async def hang(visit: Visit) -> None:
    await asyncio.sleep(30)


def tls_contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context, with a certificate for 127.0.0.1, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca.example.net")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path = directory / "server.pem"
    path.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())
