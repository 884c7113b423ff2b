"""Proofs: frozen values that only the module which did the checking can make.

A step that needs a fact takes the proof of it. That is worth something only if a proof cannot be had without
the check: not by its constructor, nor by that of a subclass, nor by a copy of another proof with other contents
(`dataclasses.replace`, `copy.replace`, `copy.copy` and `__setstate__`, pickle).
"""

from __future__ import annotations

from dataclasses import dataclass
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
def proof(cls: type[P]) -> type[P]:
    """Make a class a frozen dataclass of which no changed copy can be made; its constructor wants a `Seal`.

    Two proofs are equal only if they are one.
    """
    made = dataclass(frozen=True, slots=True, eq=False)(cls)
    for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__replace__"):
        setattr(made, name, _refuse)
    for name in ("__copy__", "__deepcopy__"):
        setattr(made, name, _itself)
    # A subclass would be taken for a proof, and could do without the check of the seal.
    made.__init_subclass__ = classmethod(_refuse)  # type: ignore[assignment]
    return made
