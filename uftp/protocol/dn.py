"""X.500 names: RFC 2253/4514 text to values and back, and the canonical form that decides every comparison.

Three questions are asked of names, and each has its own function:

    canonical     are these the same person? RDN order is significant (CONTROL-PLANE 5.9)
    same_rdns     may this certificate use the command port? order does not matter (DATA-PLANE 1.1)
    rdn_subset    the same by the lenient rule of upstream's data node

Two deliberate tightenings: control characters and empty names are refused, and characters that only become special
by Unicode normalisation (a full-width comma) are escaped in the canonical form, so that no value can pose as two RDNs.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from uftp.protocol._errors import ProtocolError

MAX_NAME_CHARACTERS = 16 * 1024  # real names have a hundred; a larger one is an attempt to waste time

_ATTRIBUTE_OIDS = {
    "cn": "2.5.4.3",
    "sn": "2.5.4.4",
    "surname": "2.5.4.4",
    "serialnumber": "2.5.4.5",
    "c": "2.5.4.6",
    "l": "2.5.4.7",
    "st": "2.5.4.8",
    "s": "2.5.4.8",
    "street": "2.5.4.9",
    "o": "2.5.4.10",
    "ou": "2.5.4.11",
    "t": "2.5.4.12",
    "title": "2.5.4.12",
    "name": "2.5.4.41",
    "givenname": "2.5.4.42",
    "gn": "2.5.4.42",
    "initials": "2.5.4.43",
    "generation": "2.5.4.44",
    "generationqualifier": "2.5.4.44",
    "dnqualifier": "2.5.4.46",
    "dnq": "2.5.4.46",
    "pseudonym": "2.5.4.65",
    "organizationidentifier": "2.5.4.97",
    "dc": "0.9.2342.19200300.100.1.25",
    "uid": "0.9.2342.19200300.100.1.1",
    "emailaddress": "1.2.840.113549.1.9.1",
    "email": "1.2.840.113549.1.9.1",
    "e": "1.2.840.113549.1.9.1",
}
_DOMAIN_COMPONENT = _ATTRIBUTE_OIDS["dc"]
_EMAIL = _ATTRIBUTE_OIDS["email"]
# The names RFC 4514 section 3 lists; the canonical form writes these in lower case, all others as OIDs.
_SHORT_NAMES = {_ATTRIBUTE_OIDS[n]: n for n in ("cn", "c", "l", "st", "o", "ou", "street", "dc", "uid")}

_OID = re.compile(r"(?:0|[1-9][0-9]{0,38})(?:\.(?:0|[1-9][0-9]{0,38}))+", re.ASCII)
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*", re.ASCII)
_SPECIAL = frozenset(',+<>;"\\')
_ESCAPABLE = _SPECIAL | frozenset(" #=")
_HEX = frozenset("0123456789abcdefABCDEF")
_SEPARATORS = frozenset(",;+")

_UTF8_STRING, _PRINTABLE_STRING, _IA5_STRING = 0x0C, 0x13, 0x16
_STRING_CODECS = {_UTF8_STRING: "utf-8", _PRINTABLE_STRING: "ascii", _IA5_STRING: "ascii"}


class InvalidName(ProtocolError):
    """Text that is no X.500 name, or one that is not accepted."""


_CACHED_CHARACTERS = 1024  # longer names are no people's


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of an RDN.

    Attributes:
        oid: the type, dotted.
        text: the value, or None if `der` holds no character string.
        der: the encoded value if the name gave it as `#` and hex.
    """

    oid: str
    text: str | None
    der: bytes | None = None


Rdn = tuple[Attribute, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """An X.500 name: its RDNs in the order they are written, never empty."""

    rdns: tuple[Rdn, ...]

    def __str__(self) -> str:
        return format_name(self)


# -- reading --------------------------------------------------------------------------------------------------------


def parse_name(text: str) -> Name:
    """Read RFC 2253 or RFC 4514 text.

    Attribute types may be names in any case or OIDs, with or without `OID.`; blanks around `,` `;` `+` `=` are
    ignored; values may be quoted, escaped, or `#` and hex.

    Raises:
        InvalidName: says what is wrong; also for an empty name and for control characters.
    """
    if len(text) > MAX_NAME_CHARACTERS:
        raise InvalidName(f"A name has at most {MAX_NAME_CHARACTERS} characters")
    return _Parser(text).name()


class _Parser:
    """One pass over the text, each character looked at a bounded number of times."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def name(self) -> Name:
        rdns: list[Rdn] = []
        rdn: list[Attribute] = []
        while True:
            rdn.append(self._attribute())
            separator = self._peek()
            self._at += 1
            if separator != "+":
                rdns.append(tuple(rdn))
                rdn = []
            if not separator:
                return Name(tuple(rdns))

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _skip_blanks(self) -> None:
        while self._peek() == " ":
            self._at += 1

    def _attribute(self) -> Attribute:
        oid = self._type()
        self._skip_blanks()
        first = self._peek()
        if first == "#":
            return _from_der(oid, self._hex_value())
        value = self._quoted() if first == '"' else self._plain()
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
            raise InvalidName("Control characters are not allowed in a name")
        return Attribute(oid, value)

    def _type(self) -> str:
        end = self._text.find("=", self._at)
        # Bounded: a name of many commas and no equals sign must not be searched again and again.
        word = self._text[self._at : end].strip(" ") if end >= 0 else ""
        if not word or len(word) > 256:
            raise InvalidName("A name is a list of TYPE=VALUE, separated by commas")
        self._at = end + 1
        lower = word.lower()
        if lower in _ATTRIBUTE_OIDS:
            return _ATTRIBUTE_OIDS[lower]
        oid = lower.removeprefix("oid.")
        if not _OID.fullmatch(oid):
            raise InvalidName(f"Unknown attribute type '{_printable(word[:64])}'")
        return oid

    def _hex_value(self) -> bytes:
        start = self._at + 1
        self._at = start
        while self._peek() in _HEX and self._peek():
            self._at += 1
        digits = self._text[start : self._at]
        self._skip_blanks()
        if len(digits) % 2 or not digits or (self._peek() and self._peek() not in _SEPARATORS):
            raise InvalidName("A value that starts with # must go on with pairs of hex digits")
        return bytes.fromhex(digits)

    def _quoted(self) -> str:
        self._at += 1
        parts: list[str] = []
        while (c := self._peek()) != '"':
            if not c:
                raise InvalidName("A quotation mark is missing")
            parts.append(self._escaped() if c == "\\" else self._take())
        self._at += 1
        self._skip_blanks()
        if self._peek() and self._peek() not in _SEPARATORS:
            raise InvalidName("Only a separator may follow a quoted value")
        return "".join(parts)

    def _plain(self) -> str:
        parts: list[str] = []
        kept = 0  # how many parts stay when the blanks at the end go; escaped blanks stay
        while (c := self._peek()) and c not in _SEPARATORS:
            if c == "\\":
                parts.append(self._escaped())
                kept = len(parts)
            elif c in _SPECIAL:
                raise InvalidName(f"'{c}' must be escaped in a value")
            else:
                parts.append(self._take())
                kept = len(parts) if c != " " else kept
        return "".join(parts[:kept])

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _escaped(self) -> str:
        following = self._text[self._at + 1 : self._at + 2]
        if following in _ESCAPABLE and following:
            self._at += 2
            return following
        octets = bytearray()  # neighbouring hex pairs are the UTF-8 of one or more characters
        while self._peek() == "\\":
            pair = self._text[self._at + 1 : self._at + 3]
            if len(pair) < 2 or not _HEX.issuperset(pair):
                break
            octets += bytes.fromhex(pair)
            self._at += 3
        try:
            decoded = octets.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidName("Escaped bytes are not UTF-8") from None
        if not decoded:
            raise InvalidName("A backslash must be followed by a special character or two hex digits")
        return decoded


def _from_der(oid: str, der: bytes) -> Attribute:
    tag, content = _der_content(der)
    codec = _STRING_CODECS.get(tag)
    if codec is None:
        return Attribute(oid, None, der)
    try:
        text = content.decode(codec)
    except UnicodeDecodeError:
        raise InvalidName("A hex value holds a broken string") from None
    if any(unicodedata.category(c) == "Cc" for c in text):
        raise InvalidName("Control characters are not allowed in a name")
    return Attribute(oid, text, der)


def _der_content(der: bytes) -> tuple[int, bytes]:
    """Tag and content of one complete DER value."""
    start, length = 2, der[1] if len(der) > 1 else -1
    if length >= 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big") if 2 < start <= 6 else -1
    if length != len(der) - start or der != _der(der[0], der[start:]):
        raise InvalidName("A hex value must be one complete DER value")
    return der[0], der[start:]


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


# -- writing --------------------------------------------------------------------------------------------------------


def format_name(name: Name) -> str:
    """RFC 4514 text: short names in upper case where section 3 has one, OIDs otherwise, nothing superfluous."""
    return ",".join("+".join(_format_attribute(attribute) for attribute in rdn) for rdn in name.rdns)


def _format_attribute(attribute: Attribute) -> str:
    kind = _SHORT_NAMES.get(attribute.oid, attribute.oid).upper()
    # RFC 4514 section 2.4 writes values of dotted types in hex; text is what people and other parsers understand.
    if attribute.text is None:
        return f"{kind}=#{(attribute.der or b'').hex()}"
    return f"{kind}={escape_value(attribute.text)}"


def escape_value(text: str) -> str:
    """`text` as it can stand as a value in RFC 4514 text (section 2.4)."""
    escaped = "".join(f"\\{c}" if c in _SPECIAL else c for c in text)
    if escaped.startswith(("#", " ")):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and escaped != "\\ ":
        escaped = f"{escaped[:-1]}\\ "
    return escaped


def canonical(name: Name | str) -> str:
    """The form in which names are compared and stored (CONTROL-PLANE 5.9).

    The order of RDNs is kept and significant. Applying it to its own result changes nothing.

    Raises:
        InvalidName: `name` is text that is no name.
    """
    if isinstance(name, str):
        return _canonical_text(name) if len(name) <= _CACHED_CHARACTERS else _canonical_name(parse_name(name))
    return _canonical_name(name)


# A server meets the same few people again and again, and asks for the form of each several times a request.
@lru_cache(maxsize=1024)
def _canonical_text(text: str) -> str:
    return _canonical_name(parse_name(text))


def _canonical_name(name: Name) -> str:
    return ",".join(_canonical_rdn(rdn) for rdn in name.rdns)


def _canonical_rdn(rdn: Rdn) -> str:
    return "+".join(sorted(_canonical_attribute(attribute) for attribute in rdn))


def _canonical_attribute(attribute: Attribute) -> str:
    kind = _SHORT_NAMES.get(attribute.oid, attribute.oid)
    text = attribute.text
    if text is None:
        return f"{kind}=#{(attribute.der or b'').hex()}"
    if attribute.oid in (_DOMAIN_COMPONENT, _EMAIL):
        return f"{kind}=#{_encode_string(text.lower(), _IA5_STRING).hex()}"
    if kind == attribute.oid:
        encoded = attribute.der or _encode_string(text, _PRINTABLE_STRING)
        return f"{kind}=#{encoded.hex()}"
    return f"{kind}={_escape_canonical(_fold(text))}"


def _encode_string(text: str, tag: int) -> bytes:
    fits = text.isascii() if tag == _IA5_STRING else bool(_PRINTABLE.fullmatch(text))
    return _der(tag if fits else _UTF8_STRING, text.encode("utf-8"))


def _fold(text: str) -> str:
    """Trim, squeeze blanks, ignore case, NFKD.

    Some characters need several rounds to come to rest (a script letter decomposes into a capital); three rounds are
    enough for all of Unicode as of version 15, and the bound keeps the work linear.
    """
    for _ in range(4):
        folded = unicodedata.normalize("NFKD", _squeeze(text).upper().lower())
        folded = _squeeze(folded)
        if folded == text:
            break
        text = folded
    return text


def _squeeze(text: str) -> str:
    return " ".join(word for word in text.split(" ") if word)


def _escape_canonical(text: str) -> str:
    escaped = "".join(f"\\{c}" if c in _SPECIAL else c for c in text)
    return f"\\{escaped}" if escaped.startswith("#") else escaped


# -- comparing ------------------------------------------------------------------------------------------------------

_Key = frozenset[tuple[str, str | bytes]]


def same_rdns(a: Name | str, b: Name | str) -> bool:
    """Whether two names have the same set of RDNs, in any order, values compared without case (DATA-PLANE 1.1).

    Raises:
        InvalidName: an argument is text that is no name.
    """
    return sorted(map(_sortable, _keys(a))) == sorted(map(_sortable, _keys(b)))


def rdn_subset(line: Name | str, subject: Name | str) -> bool:
    """Whether every RDN of `line` occurs somewhere in `subject`: upstream's lenient rule (DATA-PLANE 1.1).

    `C=EU` then admits every certificate with `C=EU`, so this belongs behind a switch.

    Raises:
        InvalidName: an argument is text that is no name.
    """
    return set(_keys(line)) <= set(_keys(subject))


def _keys(name: Name | str) -> list[_Key]:
    parsed = parse_name(name) if isinstance(name, str) else name
    return [frozenset(map(_key, rdn)) for rdn in parsed.rdns]


def _key(attribute: Attribute) -> tuple[str, str | bytes]:
    if attribute.text is None:
        return attribute.oid, attribute.der or b""
    return attribute.oid, _fold(attribute.text)


def _sortable(key: _Key) -> list[tuple[str, str]]:
    return sorted((oid, value if isinstance(value, str) else f"#{value.hex()}") for oid, value in key)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
