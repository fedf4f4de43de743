"""MODE U on a data connection: one writer and one reader, as long as the connection lives (EXTENSIONS section 1).

`RecordWriter.begin` and `RecordReader.begin` give the `Outgoing` and `Incoming` of one transfer each. All of it blocks
and runs in threads, each direction in one at a time. Imports ciphers and compression, so not part of `uftp.streams`.
"""

from uftp.streams.records.hello import say_hello
from uftp.streams.records.reader import Aborted, NotAuthentic, RecordIncoming, RecordReader
from uftp.streams.records.writer import LARGEST_FILE, SMALL_FILE, RecordOutgoing, RecordWriter

__all__ = [
    "LARGEST_FILE",
    "SMALL_FILE",
    "Aborted",
    "NotAuthentic",
    "RecordIncoming",
    "RecordOutgoing",
    "RecordReader",
    "RecordWriter",
    "say_hello",
]
