"""Private keys in an HSM, used through PKCS#11: naming them (RFC 7512), finding them, signing with them.

An HSM's key is a subclass of the abstract private key of `cryptography`, so that whatever takes a private key
takes it: certificates, CRLs and messages are built here, and only the signature is made in the HSM. To the
operator a mistake is a `ConfigError`; an HSM that fails while it is used is a `ServiceFailure`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pkcs11 as cryptoki
import structlog
from cryptography.exceptions import InvalidSignature
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from ra_gateway.cmp.algorithms import default_algorithm, signing_arguments, verify_signature
from ra_gateway.errors import ConfigError, ServiceFailure
from ra_gateway.pkcs11.key import CURVE_KINDS, HSM_KEY_KINDS, RSA_KINDS, HSMKey, inspect_key
from ra_gateway.pkcs11.reference import SCHEME, Reference, Trouble, parse
from ra_gateway.pkcs11.token import MAX_SESSIONS, Connection, Token, explain, logged_in_token

ANSWER_SECONDS: Final = 10.0
"""How long a signature of a message may take: well below the 15 s that an upstream is given."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.pkcs11")

_TRIAL: Final = b"ra_gateway: does this key sign?"


T = TypeVar("T")


@contextmanager
def _config_errors(setting: str) -> Iterator[None]:
    try:
        yield
    except Trouble as trouble:
        raise ConfigError.of(setting, trouble.what, trouble.todo) from trouble
    except cryptoki.PKCS11Error as error:
        found = explain(error)
        raise ConfigError.of(setting, found.what, found.todo) from error


def read_reference(uri: str, directory: Path, setting: str) -> Reference:
    """Take a URI apart; neither the token nor the PIN file is touched.

    Args:
        uri: For example `pkcs11:token=ra;object=issuing?module-path=/usr/lib/...&pin-source=file:pin`.
        directory: Where a relative path of a PIN file starts.
        setting: Dotted path of the setting that named the key, for the error.

    Raises:
        ConfigError: It is not of this form, or has an attribute that is not known, twice or not allowed.
    """
    with _config_errors(setting):
        return parse(uri, directory)


def load(uri: str, directory: Path, setting: str) -> Any:
    """Log in to an HSM and find a private key; it is tried once, so that it works when it is needed.

    Args:
        uri: As for `read_reference`.
        directory: Where a relative path of a PIN file starts.
        setting: Dotted path of the setting that named the key.

    Returns:
        A private key of `cryptography` whose signatures are made in the HSM.

    Raises:
        ConfigError: The URI or the PIN file is wrong, or the key cannot be found, or does not sign.
    """
    with _config_errors(setting):
        reference = parse(uri, directory)
        return _load(logged_in_token(reference), reference)


def generate(uri: str, kind: str, directory: Path, setting: str) -> Any:
    """Make a key pair in an HSM; the private key is sensitive and can never be extracted.

    Args:
        uri: As for `read_reference`, with `object`; without `id` the key gets a random one.
        kind: Out of `HSM_KEY_KINDS`.
        directory, setting: As of `load`.

    Returns:
        As `load`.

    Raises:
        ConfigError: As of `load`; or a key of this label or id is there already: none is ever replaced.
    """
    with _config_errors(setting):
        reference = parse(uri, directory)
        if reference.object is None:
            raise Trouble("the URI gives no label for the new key", "Add object=LABEL")
        if kind not in HSM_KEY_KINDS:
            raise Trouble(
                f"a key of kind {kind} is not made in an HSM",
                f"Choose one of {', '.join(HSM_KEY_KINDS)}",
            )
        token = logged_in_token(reference)
        token.run(partial(_generate, reference=reference, kind=kind))
        return _load(token, reference)


def _load(token: Token, reference: Reference) -> HSMKey:
    found = token.run(partial(inspect_key, reference=reference))
    key = found.key_class(token, reference, found.public_key)
    key.weakness = found.weakness
    if found.weakness:
        log.warning("hsm.key_unprotected", key_uri=str(reference), detail=found.weakness)
    _try(key)
    key.is_known = True
    return key


def _try(key: Any) -> None:
    algorithm = default_algorithm(key.public_key())
    try:
        signature = key.sign(_TRIAL, *signing_arguments(algorithm))
        verify_signature(algorithm, key.public_key(), signature, _TRIAL)
    except ServiceFailure as error:
        raise Trouble(
            f"a trial signature failed: {error.detail}",
            "The key needs CKA_SIGN, and the HSM must offer CKM_ECDSA, CKM_RSA_PKCS or CKM_EDDSA",
        ) from error
    except InvalidSignature as error:
        raise Trouble(
            "a trial signature does not verify: the public key in the token is not the private key's",
            "Delete the false public key object, and import the right one under the same id",
        ) from error


def _generate(connection: Connection, *, reference: Reference, kind: str) -> None:
    session = connection.session.token.open(rw=True)
    try:
        _require_unused(session, reference)
        options: dict[str, Any] = {
            "label": reference.object,
            "id": reference.id or secrets.token_bytes(16),
            "store": True,
            "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
            "private_template": {
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
            },
        }
        if kind in RSA_KINDS:
            session.generate_keypair(KeyType.RSA, RSA_KINDS[kind], **options)
        else:
            key_type, curve = CURVE_KINDS[kind]
            session.create_domain_parameters(
                key_type, {Attribute.EC_PARAMS: curve}, local=True
            ).generate_keypair(**options)
    finally:
        Connection(session).close()


def _require_unused(session: Any, reference: Reference) -> None:
    names: list[dict[Attribute, Any]] = [{Attribute.LABEL: reference.object}]
    if reference.id is not None:
        names.append({Attribute.ID: reference.id})
    for name in names:
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            if list(session.get_objects({Attribute.CLASS: kind, **name})):
                raise Trouble(
                    f"the token has a key of this label or id already ({reference})",
                    "Choose others; keys are never replaced",
                )


_THREADS: Final = ThreadPoolExecutor(MAX_SESSIONS, thread_name_prefix="hsm")


async def in_thread(call: Callable[..., T], *arguments: Any, seconds: float | None = None) -> T:
    """Call something that signs in an HSM, in a thread, so that the event loop runs on.

    Args:
        seconds: How long it may take; None for as long as it wants.

    Raises:
        ServiceFailure: It took longer. (What the call raises is passed on.)
    """
    work = asyncio.get_running_loop().run_in_executor(_THREADS, partial(call, *arguments))
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise ServiceFailure(f"the HSM has not answered within {seconds} s") from error


__all__ = [
    "ANSWER_SECONDS",
    "HSM_KEY_KINDS",
    "MAX_SESSIONS",
    "SCHEME",
    "HSMKey",
    "Reference",
    "generate",
    "in_thread",
    "load",
    "read_reference",
]
