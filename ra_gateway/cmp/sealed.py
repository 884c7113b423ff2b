"""Proofs: frozen values that only the module which did the checking can make.

A step that needs a fact takes the proof of it. That is worth something only if a proof cannot be had without
the check: not by its constructor, nor by that of a subclass, nor by a copy of another proof with other contents
(`dataclasses.replace`, `copy.replace`, `copy.copy` and `__setstate__`, pickle).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NoReturn, TypeVar, dataclass_transform

P = TypeVar("P")


class Seal:
    """What the constructors of a module's proofs ask for; the module keeps it to itself.

    A proof takes it as `seal: InitVar[Seal]`: it is not kept, so no proof can be asked for it.

    Args:
        module: Name of the module, for the error.
    """

    __slots__ = ("_module",)

    def __init__(self, module: str) -> None:
        self._module = module

    def require(self, shown: object) -> None:
        """Refuse whoever does not show this very seal.

        Raises:
            TypeError: Another one.
        """
        if shown is not self:
            raise TypeError(f"only {self._module} can make this")


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError("a proof is made by the check it stands for, never from another proof")


def _itself(proof: P, *_: Any) -> P:
    return proof


@dataclass_transform(frozen_default=True, eq_default=False)
def proof(required: Seal) -> Callable[[type[P]], type[P]]:
    """Make a class a frozen dataclass of which no changed copy can be made; its constructor wants a module's `Seal`.

    Two proofs are equal only if they are one.

    Args:
        required: What its `seal: InitVar[Seal]` has to be; the check is its `__post_init__`.

    Raises:
        TypeError: The class has no `seal: InitVar[Seal]` without a default.
    """

    def make(cls: type[P]) -> type[P]:
        cls.__post_init__ = lambda _, seal: required.require(seal)  # type: ignore[attr-defined]
        made = dataclass(frozen=True, slots=True, eq=False)(cls)
        seal = inspect.signature(made).parameters.get("seal")
        is_kept = any(field.name == "seal" for field in fields(made))  # type: ignore[arg-type]
        if seal is None or is_kept or seal.default is not seal.empty:
            raise TypeError(f"anybody could make a {cls.__name__}: its constructor takes no seal")
        for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__replace__"):
            setattr(made, name, _refuse)
        for name in ("__copy__", "__deepcopy__"):
            setattr(made, name, _itself)
        # A subclass would be taken for a proof, and could do without the check of the seal.
        made.__init_subclass__ = classmethod(_refuse)  # type: ignore[assignment]
        return made

    return make
