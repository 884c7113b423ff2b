"""What statements of the ledger have in common: prepared statements, keys of rows, and conversions of values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import (
    BindParameter,
    Connection,
    CursorResult,
    Delete,
    Dialect,
    Insert,
    Row,
    Select,
    Update,
    bindparam,
)

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.hosts import asked_names, kept_names
from ra_gateway.cmp.names import NULL_DN, canonical, from_rfc4514, general_names, name_of
from ra_gateway.cmp.remembering import remembered

T = TypeVar("T")

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

LONGEST_NAME: Final = 512
"""Characters of an end entity's name: what is longer would not fit into an index of PostgreSQL."""


def listed(name: str) -> BindParameter[Any]:
    """Return the parameter for a list after IN; its values come from `padded`."""
    return bindparam(name, expanding=True)


def padded(values: Iterable[T]) -> list[T]:
    """Return a list's values, the last one repeated until their number is a power of two.

    A statement with a list is another statement for every length of it, and to be prepared anew.
    """
    found = list(values)
    wanted = 1 << (len(found) - 1).bit_length()
    return found + [found[-1]] * (wanted - len(found))


class Prepared:
    """A statement that is compiled once per dialect, for what runs with every issuance.

    To find a compiled statement again costs SQLAlchemy more than SQLite takes to run it, and so does arranging
    the values of a row. Here both are done once; values go to the driver and come from it as they are.

    Args:
        statement: Constants in it are written out; at most one list, made by `listed("these")`.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete) -> None:
        self._statement = statement
        self._rows: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]] = {}
        self._lists: dict[tuple[str, int], tuple[str, tuple[str, ...]]] = {}

    def each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run for every row of values; all rows, now and later, have the same names."""
        known = self._rows.get(connection.dialect.name)
        if known is None:
            compiled = self._statement.compile(
                dialect=connection.dialect, column_keys=list(rows[0])
            )
            names = compiled.positiontup or ()
            known = self._rows[connection.dialect.name] = (str(compiled), _arranger(names))
        text, arranged = known
        connection.exec_driver_sql(text, [arranged(row) for row in rows])

    def among(
        self, connection: Connection, values: Iterable[Any], **more: Any
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run with a list of values, not empty, and further ones."""
        these = padded(values)
        known = self._lists.get((connection.dialect.name, len(these)))
        if known is None:
            known = self._compile_list(connection.dialect, {"these": these, **more})
            self._lists[connection.dialect.name, len(these)] = known
        text, names = known
        arranged: list[Any] = []
        for name in names:
            if name == "these":
                arranged += these
            else:
                arranged.append(more[name])
        return connection.exec_driver_sql(text, tuple(arranged))

    def _compile_list(
        self, dialect: Dialect, values: Mapping[str, Any]
    ) -> tuple[str, tuple[str, ...]]:
        assert isinstance(self._statement, Select)
        compiled = self._statement.params(values).compile(
            dialect=dialect, compile_kwargs={"render_postcompile": True}
        )
        names: list[str] = []
        for name in compiled.positiontup or ():
            if not name.startswith("these_"):
                names.append(name)
            elif name == "these_1":  # these_1, these_2, ... follow each other
                names.append("these")
        return str(compiled), tuple(names)


def _arranger(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:  # itemgetter would return the bare value
        return lambda row: (row[names[0]],)
    return itemgetter(*names)


def operation_key(requester: str, transaction_id: bytes) -> bytes:
    """Return what finds an operation: short, whatever length a transactionID has."""
    name = requester.encode()
    return hashlib.sha256(b"%d:%b%b" % (len(name), name, transaction_id)).digest()


@remembered(entries=1024, max_octets=512)
def subject_key(name_der: bytes) -> bytes:
    """Return what finds a subject: equal for names that mean the same, and only for those.

    Raises:
        MalformedMessage: Not a Name.
    """
    comparable = json.dumps([sorted(rdn) for rdn in canonical(name_der)])
    return hashlib.sha256(comparable.encode()).digest()


def identity_key(subject_der: bytes, san_der: bytes | None) -> bytes:
    """Return what tells one end entity from another: its subject, and its SubjectAltName where that is empty.

    Args:
        san_der: Value of the extension, None without one.

    Raises:
        MalformedMessage: They are no names.
    """
    if canonical(subject_der):
        return subject_key(subject_der)
    names = json.dumps({"subjectAltName": sorted(alternative_names(san_der))})
    return hashlib.sha256(names.encode()).digest()


def nameless_name(san_der: bytes | None, key: bytes) -> str:
    """Return the name of an end entity that has no subject: its other names.

    Args:
        key: Its `identity_key`.
    """
    name = ",".join(sorted(alternative_names(san_der)))
    return name if 0 < len(name) <= LONGEST_NAME else unique_name(name, key)


def unique_name(name: str, key: bytes) -> str:
    """Return a name that may be too long, or somebody else's, with a piece of the key of an end entity behind it."""
    return f"{name[: LONGEST_NAME - 20]} #{key.hex()[:16]}"


def alternative_names(san_der: bytes | None) -> frozenset[str]:
    """Return the names of a SubjectAltName as texts that are equal for names that mean the same.

    Raises:
        MalformedMessage: Not GeneralNames.
    """
    if san_der is None:
        return frozenset()
    return frozenset(map(comparable, general_names(san_der)))


def comparable(name: str) -> str:
    """Return a text such as "dns:enb1.example.net" as it identifies: a name that ends in a dot is the one without."""
    folded = name.casefold()
    return folded.removesuffix(".") if folded.startswith("dns:") else folded


def name_identifiers(subject_der: bytes, san_der: bytes | None) -> frozenset[bytes]:
    """Return what finds who has one of the names of a certificate, each 32 octets; see `schema.withheld`.

    Raises:
        MalformedMessage: They are no names.
    """
    names = () if san_der is None else general_names(san_der)
    return _of_names(subject_der, san_der) | _identifiers(kept_names(subject_der, names))


def asked_identifiers(subject_der: bytes, san_der: bytes | None) -> frozenset[bytes]:
    """Return what finds whose names somebody would have, or seem to have, with a certificate.

    Raises:
        MalformedMessage: They are no names.
    """
    names = () if san_der is None else general_names(san_der)
    return _of_names(subject_der, san_der) | _identifiers(asked_names(subject_der, names))


def _of_names(subject_der: bytes, san_der: bytes | None) -> frozenset[bytes]:
    keys = {identity_key(subject_der, san_der), *directory_name_keys(san_der)}
    return frozenset(_identifier("name", key) for key in keys)


def _identifiers(names: Iterable[str]) -> frozenset[bytes]:
    return frozenset(_identifier("san", name.encode()) for name in names)


def directory_name_keys(san_der: bytes | None) -> frozenset[bytes]:
    """Return what finds the subjects (`subject_key`) that a SubjectAltName has among its names.

    Raises:
        MalformedMessage: They are no names.
    """
    if san_der is None or b"\xa4" not in san_der:
        return frozenset()
    names = map(name_of, map(asn1.raw, asn1.unbox(structures.GeneralNamesBox, san_der).names))
    return frozenset(subject_key(name) for name in names if name is not None)


def registered_identifiers(subject: str, names: Iterable[str]) -> frozenset[bytes]:
    """Return what finds who is registered with these names; of a subject that is the hosts that it names.

    Args:
        subject: As of RFC 4514.
        names: As for `san_identifiers`.
    """
    found = san_identifiers(names)
    with suppress(ValueError):
        found |= _identifiers(kept_names(from_rfc4514(subject), ()))
    return found


def san_identifiers(names: Iterable[str]) -> frozenset[bytes]:
    """Return what finds who has one of these names, texts such as "dns:enb1.example.net".

    A directoryName is found as a subject is, too.
    """
    names = list(names)
    found = set()
    for name in names:
        if name.startswith("dn:"):
            # What cannot be written anew from its text is found by that alone.
            with suppress(ValueError):
                found.add(_identifier("name", subject_key(from_rfc4514(name.removeprefix("dn:")))))
    return _identifiers(kept_names(NULL_DN, names)) | found


def key_identifier(spki_digest: bytes) -> bytes:
    """Return what finds who has a key, 32 octets, as `name_identifiers`."""
    return _identifier("key", spki_digest)


def _identifier(kind: str, octets: bytes) -> bytes:
    return hashlib.sha256(kind.encode() + b":" + octets).digest()


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def seconds_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def moment(value: int) -> datetime:
    return datetime.fromtimestamp(value, UTC)


def moment_or_none(value: int | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value, UTC)


def hexadecimal(number: int) -> str:
    return f"{number:x}"


def number_or_none(text: str | None) -> int | None:
    return None if text is None else int(text, 16)
