"""DER as a tree that can be taken apart, changed and put together again, in order or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_DEPTH: Final = 40
"""Deeper elements stay octets: the messages that are taken apart here have some fifteen levels."""


@dataclass(slots=True)
class Node:
    """One element.

    Args:
        tag: Identifier octets.
        octets: Content of a primitive element, and of one whose content is no sequence of elements.
        parts: Elements inside; None where `octets` counts. OCTET and BIT STRINGs are opened too, where they
            hold elements: `prefix` is then what stands before those (the count of unused bits).
        head: Replaces tag and length, whatever the content.
    """

    tag: bytes
    octets: bytes = b""
    parts: list[Node] | None = None
    prefix: bytes = b""
    head: bytes | None = None

    def encode(self) -> bytes:
        """Return the octets, with the shortest length unless `head` says otherwise."""
        content = self.octets
        if self.parts is not None:
            content = self.prefix + b"".join([part.encode() for part in self.parts])
        return (self.tag + length(len(content)) if self.head is None else self.head) + content

    def at(self, *path: int) -> Node:
        """Return an element inside, by its place at each level."""
        node = self
        for place in path:
            assert node.parts is not None
            node = node.parts[place]
        return node

    @property
    def content(self) -> list[Node]:
        """The elements inside.

        Raises:
            ValueError: It has none.
        """
        if self.parts is None:
            raise ValueError(f"element with tag {self.tag.hex()} holds no elements")
        return self.parts

    def copy(self) -> Node:
        """Return a copy that shares nothing."""
        parts = None if self.parts is None else [part.copy() for part in self.parts]
        return Node(self.tag, self.octets, parts, self.prefix, self.head)

    def walk(self) -> list[Node]:
        """Return this element and every one inside, from the outside in."""
        found, at = [self], 0
        while at < len(found):
            parts = found[at].parts
            if parts:
                found.extend(parts)
            at += 1
        return found


def length(size: int) -> bytes:
    """Return the shortest length octets."""
    if size < 0x80:
        return bytes((size,))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


def parse(der: bytes) -> Node:
    """Take one element apart.

    Raises:
        ValueError: Not one complete element with definite, shortest lengths.
    """
    nodes = _elements(der, 0)
    if nodes is None or len(nodes) != 1:
        raise ValueError("not one DER element")
    return nodes[0]


def _elements(octets: bytes, depth: int) -> list[Node] | None:
    """Return the elements that octets consist of, None if they do not."""
    found, at, end = [], 0, len(octets)
    while at < end:
        start, tag = at, octets[at]
        at += 1
        if tag & 0x1F == 0x1F:
            return None
        if at >= end:
            return None
        size = octets[at]
        at += 1
        if size >= 0x80:
            count = size & 0x7F
            if not 0 < count <= 4 or at + count > end or octets[at] == 0:
                return None
            size = int.from_bytes(octets[at : at + count], "big")
            at += count
            if size < 0x80:
                return None
        if at + size > end:
            return None
        content = octets[at : at + size]
        at += size
        found.append(_node(octets[start : start + 1], content, depth))
    return found


def _node(tag: bytes, content: bytes, depth: int) -> Node:
    number = tag[0]
    prefix = 1 if number == 0x03 and content[:1] == b"\x00" else 0
    opened = number & 0x20 or number == 0x04 or prefix
    if opened and depth < MAX_DEPTH:
        parts = _elements(content[prefix:], depth + 1)
        # An OCTET STRING that looks like an element by chance (an empty one does) stays what it is.
        if parts is not None and (number & 0x20 or parts):
            return Node(tag, parts=parts, prefix=content[:prefix])
    return Node(tag, content)
