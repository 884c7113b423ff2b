"""What a file, or a paste, has of a CMP message: DER, PEM, base64, hex, a dump of octets, packets, HTTP.

Dumps are those of xxd, hexdump, od, tcpdump, Wireshark and curl, C arrays, and whatever else has an offset before its
octets. What is wrong in one is told with its line: a message is not to be shown otherwise than it was.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final

from ra_gateway.cli.pcap import is_capture, packets
from ra_gateway.errors import GatewayError, printable

MAX_INPUT_OCTETS: Final = 16 * 1024 * 1024
"""Of a file or standard input: a dump of the largest message that is met, hundreds of times over."""

_MAX_HEAD_OCTETS: Final = 64 * 1024


class CannotShow(GatewayError):
    """The input is no CMP message; the text says what was found and what to give instead."""


class Incomplete(CannotShow):
    """A message begins, and does not go on."""


_WANTED: Final = "Give a CMP message in DER, base64 or hex, or a dump of xxd, tcpdump or Wireshark."
_PEM_BEGIN: Final = re.compile(rb"-----BEGIN ([^-\r\n]{0,64})-----")
_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n\f\v"


def read_bounded(stream: IO[bytes]) -> bytes:
    """Return what a file or standard input has, and no more of it than is read and one octet.

    Raises:
        OSError: It cannot be read.
    """
    return stream.read(MAX_INPUT_OCTETS + 1)


def read_message(data: bytes) -> bytes:
    """Return the DER of the first message in a file's content; arguments and errors as of `read_messages`."""
    return next(read_messages(data))


def read_messages(data: bytes) -> Iterator[bytes]:
    """Yield the DER of each message in a file's content, requests and answers in turn where there are both.

    Args:
        data: DER, PEM-like blocks, base64, hex, a dump, packets, or HTTP messages with one of them as body.

    Raises:
        CannotShow: It is empty, a private key, too long, none of these forms, or a dump with something wrong.
        Incomplete: Behind those that were yielded, one is not all there.
    """
    if len(data) > MAX_INPUT_OCTETS:
        raise CannotShow(f"The file has more than {MAX_INPUT_OCTETS} octets. {_WANTED}")
    data = _without_byte_order_mark(data)
    if not data.strip():
        raise CannotShow(f"The file is empty. {_WANTED}")
    if is_capture(data):
        yield from _messages(list(packets(data)))
    elif _HTTP.match(data):
        found = False
        for der in _bodies(data):
            found = True
            yield der
        if not found:
            raise CannotShow("The HTTP message has no body. Give one that has a CMP message.")
    elif _is_text(data):
        yield from _texts(data)
    else:
        yield from _one_by_one(data)


def _one_by_one(data: bytes) -> Iterator[bytes]:
    """Yield messages that stand one behind the other; octets that are not such as they are."""
    at = 0
    while (end := _message_end(data, at)) and data[end : end + 1] == b"\x30":
        yield data[at:end]
        at = end
    yield data[at:]


def _message_end(data: bytes, at: int) -> int:
    """Return where a message ends that begins there: a SEQUENCE of a header and a body; 0 if none does."""
    begin, end = sequence_at(data, at)
    _, header_end = sequence_at(data, begin) if begin else (0, 0)
    return end if data[header_end : header_end + 1] in BODY_TAGS and header_end else 0


BODY_TAGS: Final = frozenset(bytes((0xA0 + number,)) for number in range(27))
"""With which the body of a PKIMessage begins."""


def sequence_at(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a SEQUENCE begins, and ends by what it says; zeros if there is none."""
    head = data[at : at + 6]
    if len(head) < 2 or head[0] != 0x30 or head[1] == 0x80 or head[1] > 0x84:
        return 0, 0
    begin = 2 + (head[1] & 0x7F if head[1] & 0x80 else 0)
    length = int.from_bytes(head[2:begin], "big") if head[1] & 0x80 else head[1]
    return at + begin, at + begin + length


def _without_byte_order_mark(data: bytes) -> bytes:
    """Return a text that a Windows shell wrote as UTF-8 without a mark; no DER begins with one."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16").encode()
    except UnicodeDecodeError:
        pass
    return data.removeprefix(b"\xef\xbb\xbf")


def _is_text(data: bytes) -> bool:
    # With characters beyond ASCII, such as dumps have in their column of text, it is one if it is UTF-8.
    if not data.translate(None, _TEXT):
        return True
    try:
        return (
            data.decode("utf-8").replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
        )
    except UnicodeDecodeError:
        return False


def _texts(data: bytes) -> Iterator[bytes]:
    if b"PRIVATE KEY-----" in data:
        raise CannotShow("The file has a private key, which is not shown. Give a CMP message.")
    for block in _blocks(data):
        yield from _text(block)


def _text(block: bytes) -> Iterator[bytes]:
    text = block.strip(b"\r\n\f\v").decode("utf-8", "replace")
    lines = text.expandtabs().splitlines()
    plain = _ZERO_OFFSET.match(text) is None
    for read in (_hex, _dump, _c_arrays, _escaped) if plain else (_dump,):
        parts = read(lines)
        if parts is not None:
            return _messages(parts)
    _require_no_wrong_line(lines)
    try:
        return _one_by_one(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise CannotShow(
            f"The file is text, but neither PEM nor base64 nor hex nor a dump that is known. {_WANTED}"
        ) from error


def _blocks(data: bytes) -> Iterator[bytes]:
    """Yield what is between each BEGIN and the END of its label, or all where there is no such block."""
    at = 0
    while (begin := _PEM_BEGIN.search(data, at)) is not None:
        end = data.find(b"-----END %b-----" % begin[1], begin.end())
        if end < 0:
            break
        yield data[begin.end() : end]
        at = end + len(b"-----END -----") + len(begin[1])
    if not at:
        yield data


# --- hexadecimal --------------------------------------------------------------------------------------------------

_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_BETWEEN_DIGITS: Final = str.maketrans("", "", " :\t\r\n\f\v")


def _hex(lines: list[str]) -> list[bytes] | None:
    """Return what plain hexadecimal says, with blanks, colons and line ends as they come; None for another text."""
    digits = "".join(lines).translate(_BETWEEN_DIGITS).removeprefix("0x").removeprefix("0X")
    if not digits or not _HEX_DIGITS.issuperset(digits):
        return None
    if len(digits) % 2:
        odd = [
            number
            for number, line in enumerate(lines, 1)
            if len(line.translate(_BETWEEN_DIGITS).removeprefix("0x")) % 2
        ]
        raise CannotShow(f"Line {odd[-1]} has an odd number of hexadecimal digits.")
    return [bytes.fromhex(digits)]


def _require_no_wrong_line(lines: list[str]) -> None:
    """Raise for the line that keeps a text from being hexadecimal, where most of it is."""
    wrong = [
        number
        for number, line in enumerate(lines, 1)
        if not _HEX_DIGITS.issuperset(line.translate(_BETWEEN_DIGITS))
    ]
    if wrong and len(wrong) * 2 < len(lines):
        shown = printable(lines[wrong[0] - 1].strip(), 40)
        raise CannotShow(f"Line {wrong[0]} is not hexadecimal, as the others are: {shown}")


_ARRAY: Final = re.compile(r"\[[^\]\n]{0,40}\]\s*=\s*\{")
_C_OCTET: Final = re.compile(r"\b0[xX]([0-9a-fA-F]{1,2})\b")


def _c_arrays(lines: list[str]) -> list[bytes] | None:
    """Return the octets of C arrays, those of `xxd -i` or of Wireshark's streams."""
    text = "\n".join(lines)
    arrays, at = [], 0
    while (begin := _ARRAY.search(text, at)) is not None and (
        at := text.find("}", begin.end())
    ) > 0:
        arrays.append(_c_octets(text[begin.end() : at]))
    if not arrays and not _C_OCTET.sub("", text).translate(_BETWEEN_C_OCTETS):
        arrays = [_c_octets(text)]
    return arrays or None


def _c_octets(text: str) -> bytes:
    return bytes(int(octet, 16) for octet in _C_OCTET.findall(text))


_BETWEEN_C_OCTETS: Final = str.maketrans("", "", " ,;{}\n")
_ESCAPED_LINE: Final = re.compile(r'"?((?:\\x[0-9a-fA-F]{2})+)"?\s*[\\;]?')


def _escaped(lines: list[str]) -> list[bytes] | None:
    r"""Return what a string of \x30\x82... says, as Wireshark copies it, over several lines or on one."""
    found = [_ESCAPED_LINE.fullmatch(line.strip()) for line in lines if line.strip()]
    if not found or not all(found):
        return None
    return [bytes.fromhex("".join(item[1] for item in found if item).replace("\\x", ""))]


# --- dumps --------------------------------------------------------------------------------------------------------

_DUMP_LINE: Final = re.compile(
    r"( *)(?:0x)?([0-9a-fA-F]{4,16})(?::|(?= |$))((?: +[0-9a-fA-F]{2}.*)?) *"
)
"""Indentation, offset, and octets with what stands behind them."""

_ZERO_OFFSET: Final = re.compile(r"\s*(?:0x)?0{4,16}(?::|\s)")
"""How a dump begins, also one that has digits only; no message does, in plain hexadecimal."""

_TOKEN: Final = re.compile(r"( *)([0-9a-fA-F]+)(?= |$|\||>)")


@dataclass(slots=True)
class _Line:
    """A line of a dump: where it stands, the offset it claims, and what follows that."""

    number: int
    offset: str
    rest: str


@dataclass(slots=True)
class _Segment:
    """The lines of one dump, from its offset 0 on; `repeats` are the numbers of lines that "*" stands behind."""

    lines: list[_Line]
    repeats: set[int] = field(default_factory=set)


def _dump(lines: list[str]) -> list[bytes] | None:
    """Return the octets of one dump or several, None if the text is none."""
    segments = _segments(lines)
    if not segments:
        return None
    parts: list[bytes] = []
    left = MAX_INPUT_OCTETS
    for segment in segments:
        parts.append(_octets(segment, left))
        left -= len(parts[-1])
    return parts


def _segments(lines: list[str]) -> list[_Segment]:
    """Collect dumps: each begins at offset 0; two that alternate (a stream's directions) differ in indentation."""
    found: list[_Segment] = []
    current: dict[str, _Segment] = {}
    interrupted = 0
    for number, text in enumerate(lines, 1):
        match = _DUMP_LINE.fullmatch(text)
        if match is None:
            if text.strip() == "*" and found:
                found[-1].repeats.add(found[-1].lines[-1].number)
            elif text.strip():
                interrupted = number
            continue
        indent, offset, rest = match.groups()
        line = _Line(number, offset, rest)
        if not int(offset, 16):
            current[indent] = _Segment([line])
            found.append(current[indent])
        elif current:
            segment = current.get(indent, found[-1])
            if interrupted > segment.lines[-1].number and len(current) == 1:
                shown = printable(lines[interrupted - 1].strip(), 40)
                raise CannotShow(f"Line {interrupted} is no line of the dump around it: {shown}")
            segment.lines.append(line)
        elif not found and text.lstrip().startswith((f"{offset}:", f"0x{offset}:")):
            raise CannotShow(
                f"Line {number} is of a dump at offset 0x{offset}; the lines before it are missing."
            )
    # Hexadecimal without offsets may begin like one, but not go on so.
    return found if any(segment.lines[0].rest for segment in found) else []


def _octets(segment: _Segment, limit: int) -> bytes:
    """Return the octets of a dump, whose offsets may be hexadecimal, octal or decimal.

    Args:
        limit: Most octets: a line that repeats says in a few characters that there are millions.

    Raises:
        CannotShow: A line has more or fewer octets than the offsets say.
    """
    wrong: CannotShow | None = None
    for radix in (16, 8, 10):
        try:
            return _octets_by(segment, radix, limit)
        except CannotShow as error:
            wrong = wrong or error
        except ValueError:  # an offset with digits that the radix does not have
            continue
    assert wrong is not None
    raise wrong


def _octets_by(segment: _Segment, radix: int, limit: int) -> bytes:
    octets = bytearray()
    width = before = 0
    lines = segment.lines
    swapped = _is_swapped(lines)
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        if following is None:
            octets += _last(line, width, swapped, alone=len(lines) == 1)
            break
        due = int(following.offset, radix) - int(line.offset, radix)
        if line.number in segment.repeats:
            before = before or len(_last(line, 0, swapped, alone=True))  # the first line repeats
            due, repeated = before, due - before
        else:
            repeated = 0
        if due <= 0 or repeated < 0 or len(octets) + due + repeated > limit:
            raise CannotShow(
                f"Line {following.number} has offset 0x{following.offset}, which does not follow "
                f"0x{line.offset} of line {line.number}."
            )
        found, end = _read(line, due, swapped)
        if len(found) != due:
            raise CannotShow(
                f"Line {line.number} has {len(found)} octets, and {due} by the offset of line {following.number}."
            )
        if line.rest[end:].lstrip(" ")[:2].strip() and (radix != 16 or due != 16):
            # Behind them is nothing, or a column of text, which curl alone puts only one blank away.
            _require_column(line, end, following)
        octets += found
        if repeated:
            octets += (found * (repeated // due + 1))[:repeated]
        width, before = max(width, end), due
    return bytes(octets)


def _require_column(line: _Line, end: int, following: _Line) -> None:
    """Refuse octets behind those that are due.

    Raises:
        CannotShow: There are some.
    """
    rest = line.rest[end:]
    if not rest.startswith(("  ", " |", " >")):
        raise CannotShow(
            f"Line {line.number} has more octets than it has by the offset of line {following.number}."
        )


def _is_swapped(lines: list[_Line]) -> bool:
    """Tell whether words are printed with their last octet first (hexdump without -C, xxd -e)."""
    first = lines[0].rest.split()[:1]
    return bool(first) and len(first[0]) in (4, 8) and first[0][-2:] == "30" != first[0][:2]


def _last(line: _Line, width: int, swapped: bool, *, alone: bool) -> bytes:
    """Return the octets of the last line, which nothing says the number of.

    Args:
        width: Where octets end in the lines before it: text stands behind.
    """
    if not alone:
        cut = _Line(line.number, line.offset, line.rest[:width])
        found, end = _read(cut, width, swapped)
        if cut.rest[end:].strip():
            shown = printable(cut.rest[end:].strip(), 20)
            raise CannotShow(f"Line {line.number} is not hexadecimal where octets are due: {shown}")
        return found
    at, octets = 0, bytearray()
    while (token := _TOKEN.match(line.rest, at)) is not None:
        gap = len(token[1])
        if octets and gap > 1 and (len(octets) % 8 or gap > 2 or len(token[2]) != 2):
            break  # the column of text
        if len(token[2]) % 2:
            break
        octets += _word(token[2], swapped)
        at = token.end()
    return bytes(octets)


def _read(line: _Line, due: int, swapped: bool) -> tuple[bytes, int]:
    """Return as many octets of a line as are due, if it has them, and where they end in it."""
    at, octets = 0, bytearray()
    while len(octets) < due and (token := _TOKEN.match(line.rest, at)) is not None:
        digits = token[2]
        word = _word(digits, swapped) if len(digits) % 2 == 0 else b""
        if not word or (len(octets) + len(word) > due and not swapped):
            break
        octets += word[: due - len(octets)]  # hexdump fills up its last word
        at = token.end()
    return bytes(octets), at


def _word(digits: str, swapped: bool) -> bytes:
    word = bytes.fromhex(digits)
    return word[::-1] if swapped else word


# --- packets and HTTP ---------------------------------------------------------------------------------------------


def _messages(parts: list[bytes]) -> Iterator[bytes]:
    """Yield the messages in octets that were dumped one after another: each alone, as packets, or joined.

    Raises:
        CannotShow: There is none.
        Incomplete: One is not all there.
    """
    ways: list[list[bytes]]
    if streams := list(
        _streams(parts)
    ):  # first: a packet may begin with 30, the address of a network card
        ways = [streams]
    elif parts and (parts[0][:1] == b"\x30" or (len(parts) == 1 and not _HTTP.match(parts[0]))):
        ways = [[part for part in parts if part[:1] == b"\x30"] or parts]
    else:
        ways = [[b"".join(parts)], parts]
    wrong: list[CannotShow] = []
    for streams in ways:
        found = False
        for der in _in_turn(list(map(_of_stream, streams)), wrong):
            found = True
            yield der
        if found:
            wrong = [error for error in wrong if isinstance(error, Incomplete)]
            break
    else:
        count = sum(map(len, parts))
        wrong.append(
            CannotShow(
                f"There are {count} octets, and no CMP message in them: none that begins with 30, alone, in TCP or in "
                "HTTP."
            )
        )
    if wrong:
        raise wrong[0]


def _in_turn(streams: list[Iterator[bytes]], wrong: list[CannotShow]) -> Iterator[bytes]:
    """Yield one of each, the next of each...; what is wrong with one ends it."""
    waiting = deque(streams)
    while waiting:
        try:
            yield next(waiting[0])
            waiting.rotate(-1)
        except StopIteration:
            waiting.popleft()
        except CannotShow as error:
            wrong.append(error)
            waiting.popleft()


def _of_stream(stream: bytes) -> Iterator[bytes]:
    if stream[:1] == b"\x30":
        return _one_by_one(stream)
    return _bodies(stream)  # none, if it is no HTTP


_ETHERTYPES: Final = {b"\x08\x00": 4, b"\x86\xdd": 6}
_LINK_OCTETS: Final = (14, 18, 16)
"""Of Ethernet, with 802.1Q, and of Linux's "cooked" captures; what they carry is told by their last two octets."""


def _streams(packets: list[bytes]) -> Iterator[bytes]:
    """Yield what each direction of the TCP connections in packets carries, in order; nothing if they are none."""
    flows: dict[bytes, list[tuple[int, bytes]]] = {}
    for packet in packets:
        segment = _tcp_segment(packet)
        if segment is None:
            continue
        flow, number, payload = segment
        if payload:
            flows.setdefault(flow, []).append((number, payload))
    for segments in flows.values():
        first = segments[0][0]
        stream = bytearray()
        for number, payload in sorted(segments, key=lambda item: (item[0] - first) % (1 << 32)):
            at = (number - first) % (1 << 32)
            if at <= len(stream):  # else a packet is missing
                stream[at : at + len(payload)] = payload
        yield bytes(stream)


def _tcp_segment(packet: bytes) -> tuple[bytes, int, bytes] | None:
    """Return addresses and ports, sequence number and payload of a packet, with or without its link layer."""
    found = _ip_payload(packet)
    for octets in _LINK_OCTETS:
        version = _ETHERTYPES.get(packet[octets - 2 : octets])
        if found is None and version is not None:
            found = _ip_payload(packet[octets:])
    if found is None or len(found[1]) < 20:
        return None
    addresses, tcp = found
    header = (tcp[12] >> 4) * 4
    if header < 20:
        return None
    return addresses + tcp[:4], int.from_bytes(tcp[4:8], "big"), tcp[header:]


def _ip_payload(packet: bytes) -> tuple[bytes, bytes] | None:
    """Return addresses and TCP segment of an IP packet, None if it is another one."""
    if len(packet) >= 20 and packet[0] >> 4 == 4 and packet[9] == 6:
        header, total = (packet[0] & 0xF) * 4, int.from_bytes(packet[2:4], "big")
        if 20 <= header <= total <= len(packet):
            return packet[12:20], packet[header:total]
    if len(packet) >= 40 and packet[0] >> 4 == 6 and packet[6] == 6:
        total = 40 + int.from_bytes(packet[4:6], "big")
        if total <= len(packet):
            return packet[8:40], packet[40:total]
    return None


_HTTP: Final = re.compile(
    rb"(?:[A-Z]{3,10} [^\s]{1,8192} HTTP/1\.[01]|HTTP/1\.[01] [0-9]{3}[^\r\n]{0,256})\r?\n"
)
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")


def _bodies(data: bytes) -> Iterator[bytes]:
    """Yield the messages in the bodies of HTTP messages; those without a body are passed over.

    Raises:
        CannotShow: A body is no message.
        Incomplete: Not all of one is there.
    """
    at = 0
    while _HTTP.match(data, at):
        end = _HEAD_END.search(data, at, at + _MAX_HEAD_OCTETS)
        if end is None:
            return
        fields = _fields(data[at : end.start()])
        at = end.end()
        if fields.get("transfer-encoding", "").lower().endswith("chunked"):
            body, at = _unchunked(data, at)
            yield from _der_in(body)
            continue
        length = fields.get("content-length", "")
        if not length.isdecimal() or len(length) > 9:
            if at < len(data) and not _HTTP.match(data, at):
                yield from _der_in(data[at:])
                return
            continue
        if len(data) - at < int(length):
            raise Incomplete(
                f"The HTTP message has {len(data) - at} octets behind its header; its Content-Length says {length}."
            )
        if int(length):
            yield from _der_in(data[at : at + int(length)])
        at += int(length)


def _der_in(body: bytes) -> Iterator[bytes]:
    return _texts(body) if _is_text(body) else _one_by_one(body)


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").splitlines()[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


_CHUNK_SIZE: Final = re.compile(rb"[ \t\r]*([0-9a-fA-F]{1,8})[ \t\r]*(?:;[^\n]{0,1024})?(?:\n|$)")


def _unchunked(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a body that came in chunks (RFC 9112 7.1), and where it ends.

    Args:
        at: Where it begins.
    """
    body = bytearray()
    while True:
        size = _CHUNK_SIZE.match(data, at)
        if size is None or len(data) - size.end() < (octets := int(size[1], 16)):
            raise Incomplete(
                "The HTTP message comes in chunks, and they do not end as they should."
            )
        if not octets:
            return bytes(body), _chunks_end(data, size.end())
        at = size.end() + octets
        body += data[size.end() : at]
        at += data.startswith(b"\r", at)
        at += data.startswith(b"\n", at)


def _chunks_end(data: bytes, at: int) -> int:
    """Return where what follows the last chunk ends: fields, and an empty line."""
    end = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n?").match(data, at)
    return at if end is None else end.end()
