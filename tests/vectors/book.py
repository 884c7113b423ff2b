"""The index of the vectors, the gateways that they are posted to, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ra_gateway.cmp.algorithms import DEFAULT_ALGORITHMS, AlgorithmPolicy
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.mac import MACBounds
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.ra.endpoints import MACAccess
from ra_gateway.ra.settings import SubjectRule
from ra_gateway.stores.secrets import SecretFile
from tests.support.answers import status_of
from tests.support.chain import registered
from tests.support.harness import ANY_IDENTITY, ManualClock, ScriptedCA, World
from tests.vectors import cast

DIRECTORY: Final = Path(__file__).parent
INDEX: Final = DIRECTORY / "index.json"
SECRETS: Final = DIRECTORY / "secrets.csv"

AT: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When the vectors were made, as far as they are concerned, and when they are judged."""

REFERENCE: Final = "enb-1-ref"
SECRET: Final = "correct horse battery staple"

_IDENTITY: Final = replace(
    ANY_IDENTITY, subject=SubjectRule.derive, subject_template="CN={cn}.ran.example.net"
)
_REQUESTS: Final = ("ir", "cr", "kur", "p10cr", "rr", "genm")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a gateway is like that a vector is meant for.

    Args:
        vendors: Trust domains of vendors, out of acme, legacy and lattice; the operator's is always there.
        quirks: Of the domain legacy.
        named: Whether the subjects of the operator's certificates of legacy's devices are configured.
        sha1, rsa1024: What the domain legacy may use.
        mac: Whether shared secrets are taken.
        hmac_sha1: Whether their MAC may be HMAC-SHA1.
        local_ra: Whether another RA may send what its devices asked for.
    """

    strictness: str = "3gpp"
    require_message_time: bool = False
    vendors: tuple[str, ...] = ("acme",)
    quirks: tuple[str, ...] = ()
    named: bool = False
    sha1: bool = False
    rsa1024: bool = False
    mac: bool = False
    hmac_sha1: bool = False
    local_ra: bool = False
    body_types: tuple[str, ...] = _REQUESTS


@dataclass(frozen=True, slots=True)
class Step:
    """A message that is posted, and what the CA answers to it.

    Args:
        post: Name of a vector.
        ca: Name of a vector; "" where a CA that issues what is asked for will do.
    """

    post: str
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message.

    Args:
        verdict: "accepted" or "refused".
        answer: Body type of what the device is answered.
        fail_info: Its first failInfo bit, "" for none.
        rule: Requirement or clause that refused, "" for none.
        understood: Whether the IDs of a PKIMessage could be read; HTTP answers 400 where not.
    """

    verdict: str
    answer: str
    fail_info: str = ""
    rule: str = ""
    understood: bool = True


@dataclass(frozen=True, slots=True)
class Vector:
    """One message, and what is due to it.

    Args:
        what: One sentence.
        expected: What the device is told: for a CA's answer, after its request was posted.
        requirements: Numbers out of R1..R160.
        configuration: Name.
        at: When it is judged, aware UTC.
        before: What is posted first.
        posted: For a message of a CA: the vector of the request that it answers; "" for one of a device.
        ca: For a message of a device: the vector by which the CA answers; "" for what is asked for.
    """

    name: str
    what: str
    expected: Verdict
    requirements: tuple[int, ...] = ()
    configuration: str = "3gpp"
    at: datetime = AT
    before: tuple[Step, ...] = ()
    posted: str = ""
    ca: str = ""

    @property
    def path(self) -> Path:
        """Where its octets are."""
        return DIRECTORY / f"{self.name}.der"

    @property
    def der(self) -> bytes:
        """Its octets."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Book:
    """All vectors, and the configurations they name."""

    configurations: Mapping[str, Configuration]
    vectors: Mapping[str, Vector]
    about: str = field(default="")

    def to_json(self) -> str:
        """Return the index; what is as usual is left out."""
        return _dump(
            {
                "about": self.about,
                "configurations": {
                    name: _changed(item, Configuration())
                    for name, item in self.configurations.items()
                },
                "vectors": {name: _entry(item) for name, item in self.vectors.items()},
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Book:
        """Read an index."""
        found = json.loads(text)
        return cls(
            {
                name: Configuration(**{key: _tuples(value) for key, value in item.items()})
                for name, item in found["configurations"].items()
            },
            {name: _vector(name, item) for name, item in found["vectors"].items()},
            found["about"],
        )


@lru_cache
def book() -> Book:
    """Return the vectors as they are on disk."""
    return Book.from_json(INDEX.read_text())


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _changed(value: Any, usual: Any) -> dict[str, Any]:
    fields = {name: getattr(value, name) for name in value.__slots__}
    return {name: item for name, item in fields.items() if item != getattr(usual, name)}


def _entry(vector: Vector) -> dict[str, Any]:
    usual = Vector(vector.name, vector.what, vector.expected)
    entry = {"what": vector.what, **_changed(vector, usual)}
    if "at" in entry:
        entry["at"] = vector.at.isoformat()
    if vector.before:
        entry["before"] = [_changed(step, Step("")) for step in vector.before]
    entry["expected"] = _changed(vector.expected, Verdict("", ""))
    return entry


def _vector(name: str, entry: dict[str, Any]) -> Vector:
    fields = {key: _tuples(value) for key, value in entry.items()}
    fields["expected"] = Verdict(**entry["expected"])
    fields["before"] = tuple(Step(**step) for step in entry.get("before", ()))
    if "at" in entry:
        fields["at"] = datetime.fromisoformat(entry["at"])
    return Vector(name, **fields)


# --- a gateway for it -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class RecordedCA(ScriptedCA):
    """A CA that answers with octets where it has some, and otherwise issues what it is asked for."""

    octets: bytes | None = None

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        if self.octets is None:
            return await ScriptedCA.exchange(
                self, der, path=path, deadline_seconds=deadline_seconds
            )
        self.received.append(der)
        return self.octets


def make_world(
    configuration: Configuration, at: datetime = AT, make_ca: type[RecordedCA] = RecordedCA
) -> World:
    """Build the gateway of a configuration; its clock stands still at a moment."""
    clock = ManualClock(at)
    ca = make_ca(cast.operator(), clock)
    domains = tuple(_domain(name, configuration) for name in configuration.vendors)
    fields: dict[str, Any] = {
        "vendors": domains,
        "identities": {domain.name: _IDENTITY for domain in domains},
        "body_types": frozenset(BodyType[name] for name in configuration.body_types),
    }
    if configuration.named:
        fields["origin_subjects"] = {"legacy": ("CN=* eNodeB",)}
    if configuration.mac:
        fields["mac"] = MACAccess(
            TrustDomain("mac:ran", DomainKind.shared_secrets, ()),
            SecretFile(SECRETS, clock=clock),
            MACBounds(hmac_sha1=configuration.hmac_sha1),
        )
    if configuration.local_ra:
        fields["registration_authorities"] = registered(
            cast.operator(), cast.member("local-ra").as_entity()
        )
    return World.make(
        cast.vendor(),
        cast.operator(),
        rules=HeaderRules(
            Strictness(configuration.strictness),
            require_message_time=configuration.require_message_time,
        ),
        endpoint=fields,
        clock=clock,
        ca=ca,
    )


def _domain(name: str, configuration: Configuration) -> TrustDomain:
    anchors = (cast.member(f"{name}-root").certificate,)
    if name != "legacy":
        return TrustDomain(name, DomainKind.vendor, anchors)
    policy = AlgorithmPolicy(
        DEFAULT_ALGORITHMS | ({cast.SHA1_RSA.name} if configuration.sha1 else set()),
        min_rsa_bits=1024 if configuration.rsa1024 else 2048,
    )
    quirks = frozenset(configuration.quirks)
    return TrustDomain(name, DomainKind.vendor, anchors, algorithms=policy, quirks=quirks)


# --- judging --------------------------------------------------------------------------------------------------


def steps_of(vector: Vector) -> tuple[Step, ...]:
    """Return everything that is posted to judge a vector, what it is judged by last."""
    if vector.posted:
        return (*vector.before, Step(vector.posted, vector.name))
    return (*vector.before, Step(vector.name, vector.ca))


async def play(world: World, steps: tuple[Step, ...], octets: Mapping[str, bytes]) -> Verdict:
    """Post messages one after the other and tell what became of the last.

    Args:
        octets: By name of the vector.
    """
    verdict = Verdict("", "")
    for step in steps:
        assert isinstance(world.ca, RecordedCA)
        world.ca.octets = octets[step.ca] if step.ca else None
        verdict = await post(world, octets[step.post])
    return verdict


async def post(world: World, der: bytes) -> Verdict:
    """Post a message and tell what became of it."""
    reply = await world.gateway.handle(der, endpoint=world.endpoint.name)
    event, answer = world.events[-1], PKIMessage.from_der(reply.der)
    assert event.bug is None, event.bug
    bits = _fail_info(answer)
    return Verdict(
        verdict="refused" if event.outcome in ("refused", "failed") else "accepted",
        answer=answer.body_type.name,
        fail_info=bits[0] if bits else "",
        rule=event.rule,
        understood=reply.understood,
    )


_WITH_STATUS: Final = frozenset({*CERT_RESPONSE_TO.values(), BodyType.rp, BodyType.error})


def _fail_info(answer: PKIMessage) -> list[str]:
    if answer.body_type not in _WITH_STATUS:
        return []
    info = status_of(answer)
    assert info.status is not PKIStatus.rejection or info.fail_info
    return [bit.name for bit in info.fail_info]
