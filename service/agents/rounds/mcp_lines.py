"""How long a line of an MCP server may be that is a program: the SDK keeps each line of its output whole in memory.

The SDK takes the name of an encoding. This one is UTF-8 without the lines of more than MAX_LINE_BYTES; in the place of
such a line stands the answer that the call failed, so that the model reads it.
"""

import codecs
import re

import msgspec

ENCODING = "treadle_lines"
MAX_LINE_BYTES = 10_000_000
KEPT_BYTES = 1_000  # of the begin and the end of a line, in one of which its id stands
# Before or after the result, as the servers of the SDKs write it.
FIRST_ID = re.compile(rb'\A\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?\s*"id"\s*:\s*(-?\d{1,15}|"[^"\\]{1,200}")\s*,')
LAST_ID = re.compile(rb'"id"\s*:\s*(-?\d{1,15}|"[^"\\]{1,200}")\s*\}\s*\Z')
INTERNAL_ERROR_CODE = -32603


class LineDecoder(codecs.IncrementalDecoder):
    def __init__(self, errors: str = "strict") -> None:
        super().__init__(errors)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self.reset()

    def reset(self) -> None:
        self._decoder.reset()
        self._begin_line()

    def decode(self, input: bytes, final: bool = False) -> str:  # type: ignore[override]  # the SDK hands over bytes
        first, *lines = input.split(b"\n")
        text = self._add(first)
        for line in lines:
            text += self._end_line() + self._add(line)
        return text + (self._decoder.decode(b"", final) if final else "")

    def _begin_line(self) -> None:
        self._size, self._head, self._tail = 0, b"", b""

    def _add(self, piece: bytes) -> str:
        was_too_long = self._size > MAX_LINE_BYTES
        self._size += len(piece)
        self._head += piece[: KEPT_BYTES - len(self._head)]
        if self._size <= MAX_LINE_BYTES:
            return str(self._decoder.decode(piece))
        self._tail = (self._tail + piece[-KEPT_BYTES:])[-KEPT_BYTES:]
        if was_too_long:
            return ""
        self._decoder.reset()
        return "\n"  # ends what the SDK has of the line; it cannot read that, and passes over it

    def _end_line(self) -> str:
        too_long, found = self._size > MAX_LINE_BYTES, FIRST_ID.match(self._head) or LAST_ID.search(self._tail)
        self._begin_line()
        if not too_long:
            return str(self._decoder.decode(b"\n"))
        if found is None:
            return ""
        error = {
            "code": INTERNAL_ERROR_CODE,
            "message": f"The answer of the MCP server has more than {MAX_LINE_BYTES} bytes.",
        }
        answer = {"jsonrpc": "2.0", "id": msgspec.Raw(found[1]), "error": error}
        return msgspec.json.encode(answer).decode() + "\n"


def _find(name: str) -> codecs.CodecInfo | None:
    if name != ENCODING:
        return None
    utf8 = codecs.lookup("utf-8")
    return codecs.CodecInfo(utf8.encode, utf8.decode, name=ENCODING, incrementaldecoder=LineDecoder)


codecs.register(_find)
