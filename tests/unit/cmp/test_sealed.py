"""Proofs cannot be forged: not by a constructor, and not by a copy of another proof with other contents."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, InitVar, fields, is_dataclass, replace
from typing import Any

import pytest

import ra_gateway
from ra_gateway.cmp import sealed
from ra_gateway.cmp.sealed import Seal


def _proofs() -> dict[str, type[Any]]:
    """Return every class of the package whose constructor asks for a seal."""
    found: dict[str, Any] = {}
    for item in pkgutil.walk_packages(ra_gateway.__path__, "ra_gateway."):
        if ".migrations" in item.name:
            continue
        module = importlib.import_module(item.name)
        for name, kind in vars(module).items():
            is_here = isinstance(kind, type) and kind.__module__ == item.name
            if is_here and is_dataclass(kind) and "seal" in kind.__annotations__:
                found[f"{item.name}.{name}"] = kind
    return found


PROOFS = _proofs()
FORGED = Seal("a forger")


def test_these_are_the_proofs() -> None:
    """A type that loses its seal, or gains one, is noticed."""
    assert {name.rpartition(".")[2] for name in PROOFS} == {
        "AuthenticatedMessage",
        "MACAuthenticatedMessage",
        "AuthenticatedRequest",
        "AuthenticatedConfirmation",
        "AuthenticatedRevocation",
        "AuthenticatedQuestion",
        "AuthorizedRequest",
        "AuthorizedRevocation",
        "Batch",
        "CRL",
        "CheckedTBS",
        "OCSPStatus",
        "Single",
    }


def _genuine(kind: type[Any]) -> Any:
    """Return a proof as its own module would make it; what it holds does not matter here."""
    module = importlib.import_module(kind.__module__)
    contents = {field.name: object() for field in fields(kind)}
    return kind(**contents, seal=vars(module)["_SEAL"])


def _change(proof: Any) -> dict[str, Any]:
    return {fields(proof)[0].name: "forged"}


def _state(proof: Any) -> list[Any]:
    return ["forged"] * len(fields(proof))


def _subclass(proof: Any) -> Any:
    unsealed = type("Unsealed", (type(proof),), {"__post_init__": lambda *_: None})
    return unsealed(*_state(proof), None)


FORGERIES: dict[str, Callable[[Any], Any]] = {
    "constructor": lambda proof: type(proof)(*_state(proof), None),
    "another seal": lambda proof: type(proof)(*_state(proof), FORGED),
    "its own seal": lambda proof: type(proof)(*_state(proof), proof.seal),
    "no seal": lambda proof: type(proof)(*_state(proof)),
    "subclass": _subclass,
    "replace": lambda proof: replace(proof, **_change(proof)),
    "replace with a seal": lambda proof: replace(proof, **_change(proof), seal=FORGED),
    "replace with its seal": lambda proof: replace(proof, **_change(proof), seal=proof.seal),
    "copy.replace": lambda proof: proof.__replace__(**_change(proof)),
    "setstate": lambda proof: copy.copy(proof).__setstate__(_state(proof)),
    "setstate of an empty one": lambda proof: object.__new__(type(proof)).__setstate__([]),
    "pickle": lambda proof: pickle.loads(pickle.dumps(proof)),  # noqa: S301
    "reduce": lambda proof: proof.__reduce_ex__(2),
    "assignment": lambda proof: setattr(proof, fields(proof)[0].name, "forged"),
    "deletion": lambda proof: delattr(proof, fields(proof)[0].name),
    "another attribute": lambda proof: setattr(proof, "more", "forged"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("name", PROOFS)
def test_a_proof_cannot_be_forged(name: str, forgery: str) -> None:
    """Whatever is tried ends in an error, and the proof says what it said."""
    proof = _genuine(PROOFS[name])
    before = [getattr(proof, field.name) for field in fields(proof)]
    with pytest.raises((TypeError, ValueError, AttributeError, FrozenInstanceError)):
        FORGERIES[forgery](proof)
    assert [getattr(proof, field.name) for field in fields(proof)] == before


@pytest.mark.parametrize("name", PROOFS)
def test_a_copy_is_the_proof_itself(name: str) -> None:
    """Copies cannot be changed apart from what they were copied from."""
    proof = _genuine(PROOFS[name])
    assert copy.copy(proof) is proof
    assert copy.deepcopy(proof) is proof


UNSEALED: dict[str, dict[str, Any]] = {
    "no seal": {"__annotations__": {}},
    "a seal with a default": {"__annotations__": {"seal": InitVar[Seal]}, "seal": FORGED},
    "a seal that is kept": {"__annotations__": {"seal": Seal}},
}


def test_a_class_that_takes_a_seal_becomes_a_proof() -> None:
    """Of the classes below, only what they lack makes them none."""
    kind: type[Any] = type("Sealed", (), {"__annotations__": {"seal": InitVar[Seal]}})
    assert sealed.proof(FORGED)(kind)(seal=FORGED)


@pytest.mark.parametrize("lack", UNSEALED)
def test_a_class_that_takes_no_seal_is_refused_as_a_proof(lack: str) -> None:
    """When it is defined, not when somebody forges it."""
    with pytest.raises(TypeError, match="anybody could make a Unsealed"):
        sealed.proof(FORGED)(type("Unsealed", (), UNSEALED[lack]))
