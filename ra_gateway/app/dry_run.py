"""Whether a gateway would take a message, tried on a configuration: nothing is asked of a CA, and nothing is kept.

The message goes through the gateway's own steps up to the one at which its transaction would be opened, or a CA asked.
What only the running gateway knows has no part in it: transactions, revocations, and what became of secrets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from ra_gateway.app.gateway import Wiring
from ra_gateway.clocks import now
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import readable
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, MalformedMessage, ServiceFailure
from ra_gateway.events import Fact, Outcome, RequestHandled
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.ports import CACore
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.ra.transaction import State, Transaction
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.upstream.kinds import UpstreamConfig

_FOLLOWERS: Final = frozenset({BodyType.certConf.name, BodyType.pollReq.name})
_REFUSALS: Final = (Outcome.refused, Outcome.failed)
_ROOM: Final = 100
"""More messages than one batch has, none of which is kept."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gateway makes of a message.

    Args:
        accepted: Whether it is answered with what was asked for, as far as that is up to the gateway.
        at: The moment it is judged at, aware UTC.
        said: A sentence without its full stop.
        fail_info: Name of what a refusal is answered with, "" for none.
        signer, domain: Who sent it, and out of which domain of trust; "" if that is not known.
        upstream: Name of the CA that would be asked; "" for none.
    """

    endpoint: str
    accepted: bool
    at: datetime
    said: str
    fail_info: str = ""
    signer: str = ""
    domain: str = ""
    upstream: str = ""

    def __str__(self) -> str:
        who = f"; it is from {self.signer or 'somebody'} of {self.domain}" if self.domain else ""
        return f"endpoint {self.endpoint} {self.said.rstrip('.')}{who}."


class _Reached(ServiceFailure):
    """The message has come as far as it may here."""


_REACHED: Final = "nothing is kept, and no CA asked"


class _Store(MemoryStore):
    """Opens no transaction."""

    opened: Transaction | None = None

    async def create(
        self,
        transaction: Transaction,
        *,
        repeatable: bool = False,
        look_at: datetime | None = None,
    ) -> Transaction | None:
        self.opened = transaction
        raise _Reached(_REACHED, rule="R50")


class _CA:
    """Stands in the place of every CA, and answers nothing."""

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        raise _Reached(_REACHED, rule="R50")

    async def close(self) -> None:
        """Do nothing."""


class _DryWiring(Wiring):
    """A gateway that goes by a configuration, without CAs."""

    def _core(self, name: str, config: UpstreamConfig) -> CACore:
        return _CA()


class DryRun:
    """Judges messages by a configuration.

    Args:
        endpoint: Name of the endpoint they come to; "" for the only one.

    Raises:
        ConfigError: There is no such endpoint, or files that the configuration names cannot be used.
    """

    def __init__(self, config: GatewayConfig, endpoint: str = "") -> None:
        names = ", ".join(config.endpoints)
        if not endpoint and len(config.endpoints) > 1:
            raise ConfigError.of("--endpoint", "is missing", f"Name one of them: {names}")
        if endpoint and endpoint not in config.endpoints:
            raise ConfigError.of("--endpoint", f"{endpoint!r} is none", f"Name one of {names}")
        self.endpoint = endpoint or next(iter(config.endpoints))
        self._config = config
        self._events: list[RequestHandled] = []
        self._wiring = _DryWiring(config, _Store(now, max_transactions=_ROOM), None, self._take)

    def _take(self, fact: Fact) -> None:
        if isinstance(fact, RequestHandled):
            self._events.append(fact)

    async def judge(self, der: bytes) -> list[Verdict]:
        """Return what becomes of a message now; of one that is refused and old, also what did at its messageTime."""
        at = now()
        verdicts = [await self._judge(der, at)]
        try:
            sent_at = PKIMessage.from_der(der).header.message_time
        except MalformedMessage:
            sent_at = None
        window = self._config.endpoints[self.endpoint].message_time_window_seconds
        if not verdicts[0].accepted and sent_at and abs((at - sent_at).total_seconds()) > window:
            verdicts.append(await self._judge(der, sent_at))
        return verdicts

    async def _judge(self, der: bytes, at: datetime) -> Verdict:
        store = _Store(lambda: at, max_transactions=_ROOM)
        services = replace(
            self._wiring.services,
            clock=lambda: at,
            store=store,
            schedule=store,
            approvals=store,
            confirmation_records=store,
            device_records=store,
            signer_status=SignerStatus(),
        )
        self._events.clear()
        await Gateway(services).handle(der, endpoint=self.endpoint)
        event = self._events[-1]
        verdict = Verdict(
            self.endpoint,
            accepted=True,
            at=at,
            said="takes it",
            signer=event.signer,
            domain=event.domain,
            upstream=event.upstream,
        )
        opened = store.opened
        if opened is not None:
            who = f"{opened.upstream} for {readable(opened.subject_der) or 'no subject'}"
            names = f" ({' '.join(opened.san)})" if opened.san else ""
            waits = ", when an operator has approved it" if opened.state is State.HELD else ""
            said = f"takes it, and asks upstream {who}{names}{waits}"
            return replace(verdict, said=said, upstream=opened.upstream)
        if event.outcome is Outcome.batched:
            inside = self._events[:-1]
            refused = [item.detail for item in inside if not _taken(item)]
            said = f"takes it apart into {len(inside)} message(s)"
            said += f", and refuses some: {'; '.join(refused)}" if refused else ""
            return replace(verdict, accepted=not refused, said=said)
        if not _taken(event):
            told = "" if event.fail_info is None else event.fail_info.name
            said = f"refuses it{f' with {told}' if told else ''}: {event.detail}"
            if event.body_type in _FOLLOWERS:
                said += "; it goes on with a transaction, which the running gateway alone knows"
            return replace(verdict, accepted=False, said=said, fail_info=told, upstream="")
        if event.outcome in _REFUSALS:
            return replace(verdict, said=f"takes it, and asks upstream {event.upstream}")
        return replace(verdict, said="answers it by itself", upstream="")

    async def close(self) -> None:
        """Release what the configuration named."""
        await self._wiring.stop(0.0)


def _taken(event: RequestHandled) -> bool:
    return event.outcome not in _REFUSALS or event.detail.startswith(_REACHED)
