"""Bytes to text while they arrive."""

from __future__ import annotations

import codecs


class Utf8Stream:
    """Incremental UTF-8 decoder for printing: no piece ever holds half a character.

    Invalid sequences become U+FFFD as in `bytes.decode("utf-8", "replace")`, however the bytes are split: the
    pieces joined, with `flush` last, are the text of the joined bytes.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The characters that `data` completes; those of an unfinished one wait for the next call."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What an unfinished last character becomes: U+FFFD or nothing. The stream can then be used again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
