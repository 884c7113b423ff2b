"""Finding records: by what the indices have, newest first, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, or_, select, tuple_

from ra_gateway.audit import schema
from ra_gateway.audit.database import AuditDatabase

PAGE: Final = 500
"""Records that are read at a time."""

_BEHIND_ALL: Final = "\U0010ffff"


class Query(NamedTuple):
    """What is looked for; what is empty or None is not asked.

    Args:
        device: Subject of a signer, or of a certificate; ending in "*", its beginning.
        serial_number: Hexadecimal.
        since, until: Milliseconds since 1970, UTC; the first included, the second not.
    """

    transaction_id: str = ""
    device: str = ""
    serial_number: str = ""
    domain: str = ""
    rule: str = ""
    outcome: str = ""
    actor: str = ""
    action: str = ""
    since: int | None = None
    until: int | None = None

    @property
    def serial(self) -> str:
        """The serial number as it is stored, however it was written."""
        return self.serial_number.lower().replace(":", "").removeprefix("0x").lstrip("0")


class Found(NamedTuple):
    """A record that was found, of whichever trail.

    Args:
        trail: "gateway", or "ca" for the ledger of the bundled CA.
        at: Milliseconds since 1970, UTC.
    """

    trail: str
    number: int
    at: int
    actor: str
    action: str
    subject: str
    detail: Mapping[str, str]
    hash: bytes

    def fits(self, query: Query) -> bool:
        """Tell whether it is looked for: for a trail whose columns have not all that can be asked."""
        detail = self.detail
        serial = query.serial
        return (
            query.transaction_id in ("", detail.get("transaction_id"))
            and (not query.device or _is_of(query.device, self.subject, detail.get("signer", "")))
            and (not serial or serial in (self.subject, detail.get("serial_number")))
            and query.domain in ("", detail.get("domain"))
            and query.rule in ("", detail.get("rule"))
            and query.outcome in ("", detail.get("outcome"))
            and query.actor in ("", self.actor)
            and query.action in ("", self.action)
            and (query.since is None or self.at >= query.since)
            and (query.until is None or self.at < query.until)
        )


def _is_of(device: str, *texts: str) -> bool:
    if device.endswith("*"):
        return any(text.startswith(device[:-1]) for text in texts)
    return device in texts


def search(database: AuditDatabase, query: Query, *, newest_first: bool) -> Iterator[Found]:
    """Yield what fits in the order of time, read page by page: whoever has enough stops.

    Raises:
        StoreUnavailable: It cannot be read.
    """
    behind: tuple[int, int] | None = None
    while True:
        statement = _page(query, behind, newest_first=newest_first)
        rows = database.read(
            lambda connection, statement=statement: connection.execute(statement).all()  # type: ignore[misc]
        )
        for row in rows:
            yield Found(
                "gateway",
                row.number,
                row.at,
                row.actor,
                row.action,
                row.subject,
                json.loads(row.detail),
                bytes(row.hash),
            )
        if len(rows) < PAGE:
            return
        behind = rows[-1].at, rows[-1].number


def _page(query: Query, behind: tuple[int, int] | None, *, newest_first: bool) -> Select[Any]:
    conditions = list(_conditions(query))
    place = tuple_(_r.at, _r.number)
    if behind is not None:
        conditions.append(place < behind if newest_first else place > behind)
    order = (_r.at.desc(), _r.number.desc()) if newest_first else (_r.at, _r.number)
    return select(schema.records).where(*conditions).order_by(*order).limit(PAGE)


def _conditions(query: Query) -> Iterator[ColumnElement[bool]]:
    if query.transaction_id:
        yield _r.transaction_id == query.transaction_id.lower()
    if query.device.endswith("*"):
        begin = query.device[:-1]
        end = begin + _BEHIND_ALL
        yield or_(
            (_r.signer >= begin) & (_r.signer < end),
            (_r.subject >= begin) & (_r.subject < end) & (_r.subject != ""),
        )
    elif query.device:
        yield or_(_r.signer == query.device, (_r.subject == query.device) & (_r.subject != ""))
    if query.serial_number:
        yield _r.serial_number == query.serial
    for column, wanted in (
        (_r.domain, query.domain),
        (_r.rule, query.rule),
        (_r.outcome, query.outcome),
        (_r.actor, query.actor),
        (_r.action, query.action),
    ):
        if wanted:
            yield column == wanted
    if query.since is not None:
        yield _r.at >= query.since
    if query.until is not None:
        yield _r.at < query.until


_r = schema.records.c
