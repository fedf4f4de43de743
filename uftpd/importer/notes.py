"""What an import has to say: each thing that was not carried over, or means something else now, with its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Kind(Enum):
    """How a note is to be taken; the values are the headings they stand under."""

    LOST = "Not carried over, and to be done by hand"
    CHANGED = "Carried over, with a difference"
    NEEDLESS = "Left out, since there is no need for it here"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; 0 for the file as a whole."""

    file: Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to say.

    Attributes:
        subject: what it is about, such as the name of a setting. Never a value: that may be a secret.
        text: what happened to it, and what to do.
    """

    kind: Kind
    place: Place
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.subject}: {self.text}"


class Notes:
    """Collects notes, in order."""

    def __init__(self) -> None:
        self._notes: list[Note] = []

    def lost(self, place: Place, subject: str, text: str) -> None:
        """Something could not be carried over; `text` says what to do about it."""
        self._add(Kind.LOST, place, subject, text)

    def changed(self, place: Place, subject: str, text: str) -> None:
        """Something is not quite what it was."""
        self._add(Kind.CHANGED, place, subject, text)

    def needless(self, place: Place, subject: str, text: str) -> None:
        """Something has no counterpart, and needs none."""
        self._add(Kind.NEEDLESS, place, subject, text)

    def _add(self, kind: Kind, place: Place, subject: str, text: str) -> None:
        note = Note(kind, place, _printable(subject), _printable(text))
        if note not in self._notes:
            self._notes.append(note)

    def of(self, kind: Kind) -> list[Note]:
        """The notes of one kind."""
        return [note for note in self._notes if note.kind is kind]

    def lines(self) -> Iterable[str]:
        """All of them for a person, by kind."""
        for kind in Kind:
            if found := self.of(kind):
                yield f"{kind.value}:"
                yield from (f"  {note}" for note in found)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:300]
