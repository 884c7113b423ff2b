"""The invariant. For any octets: an answer that is DER of a PKIMessage, or octets that HTTP answers with 4xx; no
exception outside the error tree; nothing stored and nothing forwarded for a message that is not authentic; and what
is forwarded is what was signed.

Whether a message is authentic is found out here a second time, and otherwise than in the product: by trying every
key that anybody trusted has, over the octets as they stand.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from structlog.testing import capture_logs

from ra_gateway.cmp import asn1, bodies, structures
from ra_gateway.cmp.algorithms import hash_algorithm, load_public_key, signature_algorithm
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crl import decode_crl, open_crl
from ra_gateway.cmp.crmf import cert_req_messages, certification_request
from ra_gateway.cmp.header_checks import with_transaction_id
from ra_gateway.cmp.malformed import header_of
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.names import general_names, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protect
from ra_gateway.errors import CMPError, GatewayError, MalformedMessage, UpstreamUnavailable
from ra_gateway.events import RequestHandled
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.timetable import Timetable
from tests.support.desk import Clock, open_desk
from tests.support.harness import World
from tests.vectors import cast
from tests.vectors.book import AT, SECRET, Configuration, RecordedCA, book, make_world
from tests.vectors.catalogue import CONFIGURATIONS

ENDPOINTS: Final = {
    "3gpp": Configuration(vendors=("acme", "lattice"), local_ra=True),
    "strict": CONFIGURATIONS["strict"],
    "mac": replace(CONFIGURATIONS["mac"], vendors=("acme", "lattice")),
    "legacy": replace(CONFIGURATIONS["legacy"], vendors=("legacy", "acme"), strictness="lenient"),
}
"""Gateways of every kind; which of them gets a message follows from its octets."""

_TRUSTED: Final = (
    *("device", "enb", "other-enb", "operator-ra", "operator-cmp", "device-rsa", "device-ed25519"),
    *("device-ed448", "device-p384", "lattice-device", "legacy-device", "device-expired"),
    *("device-no-usage", "acme-sub", "operator-issuing", "local-ra"),
)
_AUTHORITIES: Final = (
    *("operator-cmp", "operator-ra", "operator-issuing", "operator-root", "local-ra"),
)
"""Who may sign a CA's answer: the operator's CAs, and whom they made CA or RA by extended key usage."""

_MOST_ITERATIONS: Final = 20_000

CONTENT_DECODERS: Final = {
    BodyType.ir: cert_req_messages,
    BodyType.cr: cert_req_messages,
    BodyType.kur: cert_req_messages,
    BodyType.krr: cert_req_messages,
    BodyType.ccr: cert_req_messages,
    BodyType.p10cr: certification_request,
    BodyType.ip: bodies.cert_rep_message,
    BodyType.cp: bodies.cert_rep_message,
    BodyType.kup: bodies.cert_rep_message,
    BodyType.ccp: bodies.cert_rep_message,
    BodyType.rr: bodies.rev_req_content,
    BodyType.rp: bodies.rev_rep_content,
    BodyType.genm: bodies.gen_msg_content,
    BodyType.genp: bodies.gen_msg_content,
    BodyType.error: bodies.error_msg_content,
    BodyType.certConf: bodies.cert_confirm_content,
    BodyType.nested: bodies.nested_messages,
}

_DECODERS: Final = (
    *(Certificate.from_der, signature_algorithm, load_public_key),
    lambda der: decode_crl(open_crl(der)),
    *(general_names, rfc4514, PKIHeader.from_der, PKIMessage.from_der),
    lambda der: hash_algorithm(asn1.decode(structures.AlgorithmIdentifier, der)),
)


class Violation(AssertionError):
    """The invariant does not hold."""


def require(holds: bool, what: str) -> None:
    """Go on only if something holds.

    Raises:
        Violation: It does not.
    """
    if not holds:
        raise Violation(what)


# --- decoders -------------------------------------------------------------------------------------------------


def decode(octets: bytes) -> PKIMessage | None:
    """Decode octets as everything they may be; each decoder returns, or raises an error of ours.

    Returns:
        The message, None if they are none.
    """
    for decoder in _DECODERS:
        try:
            decoder(octets)
        except GatewayError:
            continue
    try:
        message = PKIMessage.from_der(octets)
    except MalformedMessage:
        return None
    moment = message.header.message_time
    # DER allows a fraction of a second, CMP does not; nobody is refused for one, and we write none.
    if moment is None or not moment.microsecond:
        require(message.header.to_der() == message.header_der, "the header is encoded otherwise")
    read = CONTENT_DECODERS.get(message.body_type)
    if read is not None:
        with suppress(CMPError):
            read(message.body_content)
    for der in message.extra_certs:
        with suppress(CMPError):
            Certificate.from_der(der)
    return message


# --- authentic or not -----------------------------------------------------------------------------------------


@lru_cache
def _public_keys() -> tuple[Any, ...]:
    return tuple(cast.member(name).private_key.public_key() for name in _TRUSTED)


def authentic(message: PKIMessage) -> bool:
    """Tell whether anybody in the cast protected these very octets of header and body."""
    if message.protection is None:
        return False
    octets = _protected(message)
    return any(_verifies(key, message.protection, octets) for key in _public_keys()) or _mac_fits(
        message, octets
    )


def _protected(message: PKIMessage) -> bytes:
    """The octets as they stand in the message, found without the decoder's help but for their length."""
    both = message.header_der + message.body_der
    require(both in message.der, "header and body are not what was received")
    return b"\x30" + _length(len(both)) + both


def _length(size: int) -> bytes:
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return octets if size < 0x80 else bytes((0x80 | len(octets),)) + octets


def _verifies(key: Any, signature: bytes, octets: bytes) -> bool:
    return any(_verified(key, signature, octets, arguments) for arguments in _ways(key))


def _ways(key: Any) -> Iterator[tuple[Any, ...]]:
    digests = (hashes.SHA256(), hashes.SHA384(), hashes.SHA512(), hashes.SHA1())
    if isinstance(key, ec.EllipticCurvePublicKey):
        yield from ((ec.ECDSA(digest),) for digest in digests)
    elif isinstance(key, rsa.RSAPublicKey):
        for digest in digests:
            yield padding.PKCS1v15(), digest
            yield padding.PSS(padding.MGF1(digest), padding.PSS.AUTO), digest
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) or key is not None:
        yield ()


def _verified(key: Any, signature: bytes, octets: bytes, arguments: tuple[Any, ...]) -> bool:
    try:
        key.verify(signature, octets, *arguments)
    except (InvalidSignature, ValueError):
        return False
    return True


def _mac_fits(message: PKIMessage, octets: bytes) -> bool:
    """Tell whether PasswordBasedMac or PBMAC1 fits with the secret of the vectors."""
    try:
        found = asn1.decode(
            structures.AlgorithmIdentifier, message.header.protection_alg_der or b""
        )
        if found.parameters is None:
            return False
        parameters = asn1.raw(found.parameters)
        if found.algorithm.dotted_string == OID.passwordBasedMac:
            return _pbm_fits(asn1.decode(structures.PBMParameter, parameters), message, octets)
        if found.algorithm.dotted_string == OID.pbmac1:
            both = asn1.decode(structures.PBMAC1Params, parameters)
            inner = both.key_derivation_func.parameters
            given = asn1.decode(structures.PBKDF2Params, b"" if inner is None else asn1.raw(inner))
            return _pbmac1_fits(given, message, octets)
    except MalformedMessage:
        pass
    return False


def _pbm_fits(given: structures.PBMParameter, message: PKIMessage, octets: bytes) -> bool:
    if not 0 < given.iteration_count <= _MOST_ITERATIONS:
        return False
    for owf in ("sha256", "sha384", "sha512"):
        key = SECRET.encode() + given.salt
        for _ in range(given.iteration_count):
            key = hashlib.new(owf, key).digest()
        if _hmac_fits(key, message, octets):
            return True
    return False


def _pbmac1_fits(given: structures.PBKDF2Params, message: PKIMessage, octets: bytes) -> bool:
    if not 0 < given.iteration_count <= _MOST_ITERATIONS or not 0 <= (given.key_length or 0) <= 64:
        return False
    for prf in ("sha1", "sha256", "sha384", "sha512"):
        for size in {given.key_length} if given.key_length else (20, 32, 48, 64):
            key = hashlib.pbkdf2_hmac(prf, SECRET.encode(), given.salt, given.iteration_count, size)
            if _hmac_fits(key, message, octets):
                return True
    return False


def _hmac_fits(key: bytes, message: PKIMessage, octets: bytes) -> bool:
    names = ("sha1", "sha256", "sha384", "sha512")
    return any(hmac.digest(key, octets, name) == message.protection for name in names)


# --- the whole pipeline -----------------------------------------------------------------------------------------


class FailingCA(RecordedCA):
    """A CA that is out of order for whatever it does not know how to answer."""

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        try:
            return await super().exchange(der, path=path, deadline_seconds=deadline_seconds)
        except (ValueError, CMPError) as error:
            raise UpstreamUnavailable(f"{error}", delivered=True) from error


class ForkedStore(MemoryStore):
    """A memory store that forgets what happened since it was marked."""

    def mark(self) -> None:
        """Remember the transactions as they are."""
        self._marked = dict(self._transactions)

    def reset(self, *, marked: bool = True) -> None:
        """Forget everything that happened since; what was there before too, unless `marked`."""
        for transaction in tuple(self._transactions.values()):
            self._forget(transaction)
        self._schedule = Timetable()
        for requester in tuple(self._held):
            self._unhold(requester)
        for transaction in self._marked.values() if marked else ():
            # Nothing is awaited inside, so that no event loop is needed.
            try:
                self.create(transaction).send(None)
            except StopIteration:
                continue

    @property
    def changed(self) -> bool:
        """Whether anything differs from what it was."""
        return self._marked != self._transactions


class Pipeline:
    """One gateway, in which a base station has not confirmed its certificate yet, or is told to wait for it.

    Args:
        configuration: What it is like.
        first_answer: Vector by which the CA answers the first ir.
    """

    def __init__(self, configuration: Configuration, first_answer: str) -> None:
        self._first_answer = first_answer
        self.world: World = make_world(configuration, make_ca=FailingCA)
        self.store = ForkedStore(self.world.clock, max_transactions=1000)
        self.world.store = self.store
        self.world.gateway = self.world.second_gateway()
        self._ra = cast.member("operator-ra").certificate
        self._ca_keys = [cast.member(name).private_key.public_key() for name in _AUTHORITIES]

    async def start(self) -> None:
        """Bring the gateway to where a fuzzed certConf, error or pollReq has something to say."""
        octets = {name: vector.der for name, vector in book().vectors.items()}
        opened = {"ir": self._first_answer, "kur": "kup-to-kur", "ir-pbm": "", "rr": "rp"}
        for post, ca in opened.items():
            self._answer_with(octets[ca] if ca else None)
            await self.world.gateway.handle(octets[post], endpoint=self.world.endpoint.name)
        self._answer_with(None)
        self.store.mark()

    def _answer_with(self, octets: bytes | None) -> None:
        assert isinstance(self.world.ca, RecordedCA)
        self.world.ca.octets = octets

    async def handle(self, octets: bytes, message: PKIMessage | None) -> None:
        """Post octets, and require all that has to hold.

        Args:
            message: What they decode to, None if nothing.

        Raises:
            Violation: Something does not hold.
        """
        world = self.world
        self.forget()
        if message is not None:
            message = with_transaction_id(message, world.endpoint.rules)
        reply = await world.gateway.handle(octets, endpoint=world.endpoint.name, peer="192.0.2.7")
        require(bool(world.events), "nobody was told")
        for event in world.events:
            if event.bug is not None:
                raise event.bug
        answer = _answer(reply.der)
        readable = header_of(octets) is not None
        require(
            reply.understood == (message is not None or readable),
            "understood is not what the decoder says",
        )
        if message is None:
            require(not world.ca.received, "unreadable octets were forwarded")
            require(not self.store.changed, "unreadable octets left a trace in the store")
            require(
                answer.body_type is BodyType.error,
                "unreadable octets got another answer than error",
            )
            return
        require(
            answer.header.transaction_id == message.header.transaction_id, "another transactionID"
        )
        if world.events[-1].outcome == "replayed":
            return
        require(answer.header.recip_nonce == message.header.sender_nonce, "another recipNonce")
        require(answer.protection is not None, "the answer is not protected")
        if not world.ca.received and not self.store.changed:
            return
        served = [item for item in (message, *_members(message)) if authentic(item)]
        require(bool(served), "a message that nobody protected was served")
        for der in world.ca.received:
            sent = PKIMessage.from_der(der)
            ids = sent.header.transaction_id
            said = [item for item in served if item.header.transaction_id == ids]
            require(bool(said), "forwarded otherwise than it was received")
            self._check_forwarded(sent, said[-1])

    def _check_forwarded(self, sent: PKIMessage, message: PKIMessage) -> None:
        """Require that what went to the CA says what was received, or less, under the RA's signature."""
        if sent.body_type is BodyType.nested:
            require(message.der in sent.body_der, "another message was nested than was received")
            return
        if sent.der == message.der:
            return
        require(sent.header.transaction_id == message.header.transaction_id, "forwarded otherwise")
        require(
            sent.header.sender_nonce == message.header.sender_nonce, "another nonce was forwarded"
        )
        require(sent.header.sender_name_der == self._ra.subject_der, "not forwarded by the RA")
        if sent.body_der == message.body_der:
            return
        # The RA completed the template, and says so in the place of the proof that it verified.
        (mine,) = cert_req_messages(sent.body_content)
        (theirs,) = cert_req_messages(message.body_content)
        require(mine.pop == "raVerified", "the body was changed, and the proof kept")
        require(mine.template.spki_der == theirs.template.spki_der, "another key was forwarded")

    async def answer_with(self, octets: bytes, message: PKIMessage) -> None:
        """Let the CA answer a good request with octets, and require all that has to hold.

        Raises:
            Violation: Something does not hold.
        """
        world = self.world
        asked = _question(message.body_type)
        self.forget()
        self.store.reset(marked=asked.body_type in (BodyType.certConf, BodyType.pollReq))
        self._answer_with(octets)
        try:
            reply = await world.gateway.handle(asked.der, endpoint=world.endpoint.name)
        finally:
            self._answer_with(None)
        event = world.events[0]
        if event.bug is not None:
            raise event.bug
        answer = _answer(reply.der)
        require(
            answer.header.transaction_id == asked.header.transaction_id, "another transactionID"
        )
        if event.outcome in ("issued", "revoked", "informed", "confirmed"):
            signature, signed = message.protection or b"", _protected(message)
            by_ca = any(_verifies(key, signature, signed) for key in self._ca_keys)
            require(by_ca, "an answer that the CA did not sign was relayed")
            nonce = message.header.recip_nonce
            require(nonce == asked.header.sender_nonce, "the answer to another request was relayed")

    def forget(self) -> None:
        """Forget everything that happened since the start."""
        world = self.world
        self.store.reset()
        world.gateway._services.begun.__init__()  # type: ignore[misc]  # what was begun is looked up first
        for trace in (world.events, world.ca.received, world.ca.issued):
            trace.clear()
        world.ca.answered.clear()
        world.clock.now = AT


def _members(message: PKIMessage) -> list[PKIMessage]:
    """Return the messages inside a nested, without what is none."""
    found: list[PKIMessage] = []
    if message.body_type is BodyType.nested:
        with suppress(CMPError):
            for der in bodies.nested_messages(message.body_content):
                with suppress(CMPError):
                    found.append(PKIMessage.from_der(der))
    return found


def _answer(der: bytes) -> PKIMessage:
    try:
        return PKIMessage.from_der(der)
    except MalformedMessage as error:
        raise Violation(f"the answer is no PKIMessage: {error}") from error


_QUESTIONS: Final = {
    BodyType.ip: "ir",
    BodyType.cp: "cr",
    BodyType.kup: "kur",
    BodyType.rp: "rr",
    BodyType.genp: "genm-ca-certs",
    BodyType.pkiconf: "certconf",
    BodyType.pollRep: "pollreq",
}
"""Vectors that the CA is asked, by the type of its answer; the recorded answers fit them."""


@lru_cache
def _question(body_type: BodyType) -> PKIMessage:
    return PKIMessage.from_der(book().vectors[_QUESTIONS.get(body_type, "ir")].der)


class Authority:
    """The bundled CA, and an RA that passes on to it whatever comes.

    Args:
        directory: For its ledger.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ra = cast.member("operator-ra").credential()
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Open the ledger and register the RA."""
        known = (cast.member("operator-ra").as_entity(), cast.member("local-ra").as_entity())
        self._desk = await self._stack.enter_async_context(
            open_desk(
                cast.operator(),
                self._directory / "ledger.sqlite",
                registered=known,
                clock=Clock(AT),
            )
        )

    async def stop(self) -> None:
        """Close the ledger."""
        await self._stack.aclose()

    async def handle(self, octets: bytes, message: PKIMessage | None) -> None:
        """Post octets as they are, and as an RA sends them on; require all that has to hold.

        Raises:
            Violation: Something does not hold.
        """
        await self._post(octets, message)
        if message is not None and message.body_type is not BodyType.nested:
            der = await protect(message.header, message.body_der, self._ra, self._ra.certificates)
            await self._post(der, PKIMessage.from_der(der))

    async def _post(self, octets: bytes, message: PKIMessage | None) -> None:
        with capture_logs() as log:
            reply = await self._desk.ca.handle(octets, mode=self._desk.mode)
        require(all(entry["event"] != "ca.failed" for entry in log), f"the CA failed: {log}")
        answer = _answer(reply.der)
        readable = message is not None or header_of(octets) is not None
        require(reply.understood == readable, "the CA understood something else")
        if message is None or answer.body_type not in CERT_RESPONSE_TO.values():
            return
        issued = any(
            item.certificate_der for item in bodies.cert_rep_message(answer.body_content).responses
        )
        require(not issued or authentic(message), "a certificate for somebody who is not known")


_ANSWERS: Final = frozenset({*_QUESTIONS, BodyType.error, BodyType.nested})


_FOR_THE_CA: Final = 240
"""Every sixteenth input goes to the bundled CA too: its ledger is on a disk."""


class Target:
    """Everything that is fuzzed, with an event loop that is used again and again."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._directory = tempfile.TemporaryDirectory()
        self._authority = Authority(Path(self._directory.name))
        self._loop.run_until_complete(self._authority.start())
        self._pipelines = [
            Pipeline(configuration, "ip-waiting" if name == "legacy" else "ip")
            for name, configuration in ENDPOINTS.items()
        ]
        for pipeline in self._pipelines:
            self._loop.run_until_complete(pipeline.start())

    def close(self) -> None:
        """Close the ledger and the event loop."""
        self._loop.run_until_complete(self._authority.stop())
        self._loop.close()
        self._directory.cleanup()

    @property
    def last_events(self) -> list[RequestHandled]:
        """What the gateways told of the last input each of them had."""
        return [event for pipeline in self._pipelines for event in pipeline.world.events]

    def one(self, octets: bytes) -> None:
        """Try one input.

        Raises:
            Exception: The invariant does not hold, or an error of no kind that is ours came out.
        """
        message = decode(octets)
        lot = hashlib.blake2b(octets, digest_size=1).digest()[0]
        self._loop.run_until_complete(self._one(lot, octets, message))

    async def _one(self, lot: int, octets: bytes, message: PKIMessage | None) -> None:
        pipeline = self._pipelines[lot % len(self._pipelines)]
        await pipeline.handle(octets, message)
        if lot >= _FOR_THE_CA:
            await self._authority.handle(octets, message)
        if message is not None and message.body_type in _ANSWERS:
            await pipeline.answer_with(octets, message)
