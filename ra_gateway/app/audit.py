"""The audit trail that a configuration asks for, and what answers messages only once they are recorded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ra_gateway.app.audit_acts import audit_database, clock_ms, node
from ra_gateway.app.webhooks import signed_headers, webhook_secret
from ra_gateway.cmp.responder import Reply
from ra_gateway.config.audit_tables import (
    AuditConfig,
    AuditStream,
    FileStream,
    SyslogStream,
    WebhookStream,
)
from ra_gateway.errors import StoreUnavailable
from ra_gateway.server.cmp import CMPHandler, KnowsBegun
from ra_gateway.server.listener import RETRY, Refusal

if TYPE_CHECKING:
    from ra_gateway.audit.database import AuditDatabase
    from ra_gateway.audit.streams import CallSender, Entry, QueuedStream
    from ra_gateway.audit.trail import AuditTrail
    from ra_gateway.upstream.rest import RestClient

_DAY_MS: Final = 86_400_000


def audit_trail(config: AuditConfig | None) -> AuditTrail | None:
    """Return the trail of a service, which writes once it is opened; None without one.

    Raises:
        ConfigError: As `audit_database`.
    """
    if config is None:
        return None
    database = audit_database(config)
    from ra_gateway.audit.retention import remove_older
    from ra_gateway.audit.trail import AuditTrail

    days = config.retention_days

    def keep(database: AuditDatabase) -> int:
        assert days is not None
        now = clock_ms()
        return remove_older(database, now - days * _DAY_MS, at_ms=now, actor="gateway", node=node())

    return AuditTrail(
        database,
        streams=[_stream(name, stream) for name, stream in config.streams.items()],
        node=node(),
        clock_ms=clock_ms,
        required=config.required,
        most_waiting=config.max_waiting,
        wait_seconds=config.wait_seconds,
        keep=None if days is None else keep,
    )


def _stream(name: str, config: AuditStream) -> QueuedStream:
    """Return one stream; nothing is connected yet.

    Raises:
        ConfigError: A file that it names cannot be used.
    """
    from ra_gateway.audit import streams

    sender: streams.Sender
    if isinstance(config, FileStream):
        sender = streams.FileSender(config.path)
    elif isinstance(config, SyslogStream):
        sender = streams.SyslogSender(config.address)
    else:
        sender = _webhook(f"audit.streams.{name}", config)
    return streams.QueuedStream(name, sender)


def _webhook(setting: str, config: WebhookStream) -> CallSender:
    from ra_gateway.audit.streams import CallSender
    from ra_gateway.upstream.rest import RestClient

    key = webhook_secret(config.secret_path, f"{setting}.secret_path")
    connections = config.connections(setting, config.url)
    client = RestClient(config.url, connections)
    runner: list[asyncio.Runner] = []

    def post(entries: Sequence[Entry]) -> None:
        if not runner:
            runner.append(asyncio.Runner())
        runner[0].run(_posted(client, key, entries, config.deadline_seconds))

    def end() -> None:
        if runner:
            runner[0].run(client.close())
            runner[0].close()

    return CallSender(post, end)


async def _posted(
    client: RestClient, key: bytes, entries: Sequence[Entry], deadline_seconds: float
) -> None:
    document = {"records": list(entries)}
    headers = signed_headers(key, json.dumps(document).encode(), int(time.time()))
    answer = await client.post("", document, headers=headers, deadline_seconds=deadline_seconds)
    if not answer.succeeded:
        raise StoreUnavailable(f"HTTP {answer.status}")


class Recorded:
    """Answers messages by a handler, and lets no answer leave whose record is not durable (`CMPHandler`).

    Args:
        trail: One that is required.
    """

    def __init__(self, handler: CMPHandler, trail: AuditTrail) -> None:
        self._handler, self._trail = handler, trail

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str, operation: str, peer: str
    ) -> Reply:
        """Answer one message.

        Raises:
            Refusal: It cannot be recorded, or could not be.
        """
        trail = self._trail
        if trail.problem:  # nothing is computed that could not be told
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY)
        lost_before = trail.lost
        reply = await self._handler.handle(
            der, endpoint=endpoint, profile=profile, operation=operation, peer=peer
        )
        try:
            await trail.durable(lost_before)
        except StoreUnavailable:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY) from None
        return reply

    def has_begun(self, transaction_id: bytes) -> bool:
        """Return whether a message under a transactionID goes before others (`KnowsBegun`)."""
        handler = self._handler
        return isinstance(handler, KnowsBegun) and handler.has_begun(transaction_id)
