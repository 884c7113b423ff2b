"""`ra-gateway approvals`: the requests that wait for an operator, and what is decided on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from ra_gateway.cli.ledger_context import actor
from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    JSONOption,
    fail,
    run,
    say,
    show_list,
)
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError, GatewayError, MalformedMessage

if TYPE_CHECKING:
    from ra_gateway.ra.transaction import Transaction
    from ra_gateway.stores.redis import RedisStore

T = TypeVar("T")

_COLUMNS: Final = {
    "request": "Request",
    "created_at": "Since (UTC)",
    "endpoint": "Endpoint",
    "type": "Type",
    "requester": "Requester",
    "subject": "Subject asked for",
}

approvals_app = Commands(
    name="approvals", help="Requests that wait for an operator's decision.", no_args_is_help=True
)

Handle = Annotated[
    str,
    typer.Argument(metavar="REQUEST", help="As listed, in hex; at least 16 digits of it."),
]
ByOption = Annotated[
    str, typer.Option(help="Who decides, for the record; by default the user who is logged in.")
]


class NotListed(GatewayError):
    """No request, or more than one, waits under what was given."""


@approvals_app.command("list", examples=("ra-gateway approvals list",))
def approvals_list(as_json: JSONOption = False, config: ConfigOption = CONFIG) -> None:
    """List the requests that wait, the oldest first."""

    from ra_gateway.ra.waiting import waiting

    async def listed(store: RedisStore) -> tuple[list[Transaction], int]:
        return await waiting(store, store), store.not_believed

    requests, not_believed = _with_store(config, listed)
    rows = map(_values if as_json else _row, requests)
    show_list(_COLUMNS, rows, as_json=as_json, moment=lambda at: f"{at:%Y-%m-%d %H:%M:%S}")
    if not_believed:
        fail(
            [
                f"{not_believed} more in the list cannot be shown: sealed by a gateway whose store.seal_key_paths has "
                "another key than this configuration's, or changed by somebody else. `ra-gateway doctor` says which."
            ],
            1,
        )
    if not requests and not as_json:
        say("No request waits.")


@approvals_app.command(
    "approve",
    examples=('ra-gateway approvals approve 7c9e6679f42b11d0a3c5 --by "Ann, site acceptance"',),
)
def approvals_approve(request: Handle, by: ByOption = "", config: ConfigOption = CONFIG) -> None:
    """Let a request go to the CA; its device gets the certificate when it polls."""
    _decide(config, request, by, approve=True)


@approvals_app.command("deny", examples=("ra-gateway approvals deny 7c9e6679f42b11d0a3c5",))
def approvals_deny(request: Handle, by: ByOption = "", config: ConfigOption = CONFIG) -> None:
    """Refuse a request; its device is told notAuthorized when it polls."""
    _decide(config, request, by, approve=False)


def _decide(source: Source, handle: str, by: str, *, approve: bool) -> None:
    import asyncio

    from ra_gateway.app.audit_acts import record_act
    from ra_gateway.clocks import now
    from ra_gateway.cmp.names import readable
    from ra_gateway.config.reading import load
    from ra_gateway.ra.approval import decide
    from ra_gateway.ra.waiting import request_digest, waiting

    decided_by = by or actor().partition(":")[2]
    audit = load(source).audit

    async def record(held: Transaction, outcome: str) -> None:
        detail = {
            "outcome": outcome,
            "decided_by": decided_by,
            "request": request_digest(held),
            "transaction_id": held.key.transaction_id.hex(),
            "domain": held.key.domain,
            "signer": _requester(held),
            "signer_fingerprint": held.signer_fingerprint.hex(),
        }
        action = "approve" if approve else "deny"
        subject = readable(held.subject_der)
        await asyncio.to_thread(record_act, audit, actor(), action, subject, detail)

    async def work(store: RedisStore) -> Transaction:
        held = _one_of(await waiting(store, store), handle)
        await record(held, "asked")
        decided = await decide(
            store,
            store,
            held.key,
            digest=request_digest(held),
            approve=approve,
            decided_by=decided_by,
            clock=now,
        )
        await record(decided, "done")
        return decided

    done = _with_store(source, work)
    import structlog  # takes long, and where no store can be asked there is nothing to log

    word = "approved" if approve else "denied"
    structlog.get_logger().info(
        "approval",
        decision=word,
        decided_by=decided_by,
        request=request_digest(done),
        transaction_id=done.key.transaction_id.hex(),
        domain=done.key.domain,
        signer_fingerprint=done.signer_fingerprint.hex(),
        subject=readable(done.subject_der),
    )
    say(f"{word.capitalize()}: {done.body_type.name} of {_requester(done)} for {_subject(done)}.")


def _with_store(source: Source, work: Callable[[RedisStore], Awaitable[T]]) -> T:
    """Run some work on the store that a gateway's configuration names.

    Raises:
        ConfigError: It is not one that a command can reach.
        StoreUnavailable: It cannot be asked.
    """
    from ra_gateway.config.reading import load

    config = load(source)
    if config.store.kind == "memory":
        raise ConfigError.of(
            "store.kind",
            "is memory: what waits is known to the running gateway alone",
            'Set it to "redis", for the gateway as well.',
        )
    from ra_gateway import logs
    from ra_gateway.app.store import redis_store

    logs.configure(config.log.format, config.log.level)
    store = redis_store(config.store)

    async def main() -> T:
        try:
            return await work(store)
        finally:
            await store.close()

    return run(main())


def _one_of(requests: list[Transaction], handle: str) -> Transaction:
    """Return the request whose digest begins so.

    Raises:
        NotListed: None does, or several do, or too little of it is given to tell.
    """
    from ra_gateway.ra.waiting import MIN_HANDLE_DIGITS, request_digest

    wanted = handle.lower()
    if len(wanted) < MIN_HANDLE_DIGITS:
        raise NotListed(
            f"{handle!r} is too short: give at least {MIN_HANDLE_DIGITS} digits of what `approvals list` shows "
            "in its first column."
        )
    found = [item for item in requests if request_digest(item).startswith(wanted)]
    if not found:
        raise NotListed(f"No request waits that begins with {handle!r}; list them again.")
    if len(found) > 1:
        handles = ", ".join(map(request_digest, found))
        raise NotListed(f"{handle!r} is the beginning of several: {handles}. Give more of it.")
    return found[0]


def _values(request: Transaction) -> dict[str, Any]:
    from ra_gateway.cmp.names import readable, readable_text
    from ra_gateway.ra.waiting import request_digest

    return {
        "request": request_digest(request),
        "created_at": request.created_at,
        "endpoint": request.endpoint,
        "type": request.body_type.name,
        "requester": _requester(request),
        "domain": request.key.domain,
        "subject": readable(request.subject_der),
        "san": tuple(map(readable_text, request.san or ())),
        "transaction_id": request.key.transaction_id.hex(),
        "signer_fingerprint": request.signer_fingerprint.hex(),
    }


def _row(request: Transaction) -> dict[str, Any]:
    """Return what a table has room for."""
    from ra_gateway.ra.waiting import HANDLE_DIGITS

    values = _values(request)
    return values | {
        "request": values["request"][:HANDLE_DIGITS],
        "requester": f"{values['requester']} ({values['domain']})",
        "subject": _subject(request),
    }


def _subject(request: Transaction) -> str:
    from ra_gateway.cmp.names import readable, readable_text

    names = " ".join(map(readable_text, request.san or ()))
    return f"{readable(request.subject_der)}{f' ({names})' if names else ''}"


def _requester(request: Transaction) -> str:
    from ra_gateway.cmp.certificates import load_certificate

    try:
        return load_certificate(request.signer_der, loosely=True).subject
    except MalformedMessage:
        return "a shared secret"
