"""What a log, however long it is, says of one base station: no more of it is kept than a bound."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ra_gateway.cmp.names import from_rfc4514

LONGEST_LINE: Final = 65_536
"""Characters of a line of a log that are read; ours have 4096 octets at most."""

_TRANSACTIONS: Final = 20_000
"""Of which lines are kept while a log is read: the CA may have told its part before or after the gateway."""
_LINES: Final = 16
"""Of one transaction, the last ones."""
_MATCHES: Final = 2_000
_CHARACTERS: Final = 32_000_000
"""Of all lines that are kept of those that are meant, and of those that may turn out to be."""
_CANDIDATES: Final = 8

_HEX: Final = re.compile(r"(?:0x)?[0-9A-Fa-f:]{2,64}")
_NAMES: Final = re.compile(r"(?:^|[,+ ('])(?:2\.5\.4\.5|serialNumber|CN)=((?:[^,+\\)']|\\.){1,64})")
_ISSUER: Final = re.compile(r"\(issuer (.{1,300}?)\) to an anchor of")
_NOT_ITS_OWN: Final = frozenset(
    {"event", "level", "timestamp", "peer", "rule", "fail_info", "path"}
)
_WORDS: dict[str, re.Pattern[str]] = {}

Line = dict[str, str]


class _Transactions:
    """The last lines of the transactions that were seen last.

    Args:
        most: So many of them, while their lines have no more than `_CHARACTERS`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: OrderedDict[str, Sequence[str]] = OrderedDict()
        self._characters = 0

    def add(self, key: str, *texts: str) -> None:
        """Keep lines of one."""
        kept = [*self.pop(key), *texts][-_LINES:]
        self._lines[key] = kept
        self._characters += sum(map(len, kept))
        while len(self._lines) > self._most or self._characters > _CHARACTERS:
            self.pop(next(iter(self._lines)))

    def pop(self, key: str) -> Sequence[str]:
        """Forget one; returns what was kept of it."""
        gone = self._lines.pop(key, ())
        self._characters -= sum(map(len, gone))
        return gone

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Sequence[str]]:
        return iter(self._lines.values())


@dataclass(slots=True)
class LogReader:
    """Reads a log once, and keeps the lines of one base station and those of its transactions.

    Args:
        what: A serial number or a transactionID (hexadecimal), what names the device (its identity, FQDN, subject), or
            the address that it comes from.
    """

    what: str
    lines: int = 0
    unreadable: int = 0
    below_cmp: int = 0
    last_below_cmp: Line = field(default_factory=dict)
    its_own_below_cmp: int = 0
    numbers: set[str] = field(default_factory=set)
    """Serial numbers and transactionIDs that are meant."""
    _matching: _Transactions = field(default_factory=lambda: _Transactions(_MATCHES))
    _others: _Transactions = field(default_factory=lambda: _Transactions(_TRANSACTIONS))
    """Apart: however many others there are, they do not push out the ones that are meant."""

    def read(self, texts: Iterable[str]) -> None:
        """Take all lines; JSON, also behind what journald or a container puts in front of it."""
        for text in texts:
            self.lines += 1
            text = text[:LONGEST_LINE]
            found = _parsed(text)
            if found is None:
                self.unreadable += bool(text.strip())
            else:
                self._take(found, text)

    def _take(self, line: Line, text: str) -> None:
        if line.get("event") == "http.refused":
            if line.get("listener", "cmp") == "cmp":  # monitoring is no base station
                self._take_below_cmp(line)
            return
        # What has no transactionID is a matter of its own.
        key = line.get("transaction_id") or f"line {self.lines}"
        matches = self._matches(line)
        told = "outcome" in line or "fail_info" in line
        if key.startswith("line ") and not (matches and told):
            return
        if matches or key in self._matching:
            self._matching.add(key, *self._others.pop(key), text)
        else:
            self._others.add(key, text)

    def _take_below_cmp(self, line: Line) -> None:
        """Keep the last line of whose address was asked for; else the last of anybody."""
        is_its_own = line.get("peer") == self.what
        self.its_own_below_cmp += is_its_own
        self.below_cmp += 1
        if is_its_own or not self.its_own_below_cmp:
            self.last_below_cmp = line

    def _matches(self, line: Line) -> bool:
        what = self.what
        if line.get("peer") == what:
            return True
        if _HEX.fullmatch(what):
            digits = plain_hex(what)
            if len(digits) >= 8 and line.get("transaction_id", "").lstrip("0").startswith(digits):
                self.numbers.add(digits)
                return True
            numbers = (line.get("serial_number"), line.get("serial"))
            if digits in (plain_hex(item) for item in numbers if item):
                self.numbers.add(digits)
                return True
        return any(
            word(what).search(text) for name, text in line.items() if name not in _NOT_ITS_OWN
        )

    def transactions(self) -> list[list[Line]]:
        """Return the lines of its transactions, the one that was seen last at the end."""
        return [[line for text in texts if (line := _parsed(text))] for texts in self._matching]

    def identities(self) -> list[str]:
        """Return what may name the device in a list: what was asked about, and what its lines say of it."""
        found = {} if self.numbers or _is_address(self.what) else {self.what: None}
        for lines in reversed(self.transactions()):
            for line in lines:
                # Behind the first name are those of CAs.
                detail = line.get("detail", "").partition(" (issuer ")[0]
                for text in (line.get("signer", ""), line.get("subject", ""), detail):
                    found |= dict.fromkeys(item.strip() for item in _NAMES.findall(text))
        return list(found)[:_CANDIDATES]

    def serial_numbers(self) -> list[int]:
        """Return what was asked about, if it may be one, and those of its last transactions."""
        texts = [self.what]
        for lines in self.transactions()[-3:]:
            texts += [line.get("serial_number", line.get("serial", "")) for line in lines]
        found = (int(plain_hex(text) or "0", 16) for text in texts if _HEX.fullmatch(text))
        return list(dict.fromkeys(found))

    def subjects(self) -> list[bytes]:
        """Return the DER of what was asked about, if it is a Name, and of those in its last transactions."""
        texts = [self.what] + [
            line[name]
            for lines in self.transactions()[-3:]
            for line in lines
            for name in ("subject", "signer")
            if name in line
        ]
        found = []
        for text in dict.fromkeys(texts):
            with suppress(ValueError):
                found.append(from_rfc4514(text))
        return found

    def issuers(self) -> list[str]:
        """Return whom its last transaction names as unknown issuers of its certificate."""
        found = [
            issuer
            for lines in self.transactions()[-1:]
            for line in lines
            for issuer in _ISSUER.findall(line.get("detail", ""))
        ]
        return list(dict.fromkeys(found))[:2]


def word(what: str) -> re.Pattern[str]:
    """Return what finds a name that stands by itself, not as a part of another one."""
    if what not in _WORDS:
        _WORDS.clear()
        text = rf"(?<![\w.-]){re.escape(what)}(?![\w-])"
        _WORDS[what] = re.compile(text, re.IGNORECASE)
    return _WORDS[what]


def plain_hex(text: str) -> str:
    """Return a number in hexadecimal as logs have it: small letters, no colons, no zeros in front."""
    return text.lower().removeprefix("0x").replace(":", "").lstrip("0")


def _parsed(text: str) -> Line | None:
    try:
        found = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {str(name): str(value) for name, value in found.items() if value is not None}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
