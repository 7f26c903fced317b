"""Bodies of publishes that are not plain JSON: compressed ones, and the binary of one Protobuf message."""

import base64
import binascii
import io
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import zstandard

from service.errors import Invalid, TooLarge, Unprocessable, WrongMediaType
from service.topics.model import NewRecord, NewRecords

GZIP = ("gzip", "x-gzip")  # RFC 9110: the same
PROTOBUF_MEDIA_TYPES = ("application/x-protobuf", "application/protobuf")
GZIP_WINDOW_BITS = 31  # with the head and the checksum of gzip
ZSTD_WINDOW_BYTES = 8_388_608  # that a decompressor keeps in memory


def decompress(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body that `Content-Encoding` names, of at most so many bytes: what would be more is never unpacked. Raises
    Invalid, TooLarge, WrongMediaType."""
    if encoding == "identity":
        return body
    if encoding in GZIP:
        unpacked, whole = _gunzip(body, most_bytes)
    elif encoding == "zstd":
        unpacked, whole = _unzstd(body, most_bytes)
    else:
        raise WrongMediaType("The Content-Encoding of records must be gzip, zstd or identity.")
    if len(unpacked) > most_bytes:
        raise TooLarge(f"The body is too large; at most {most_bytes} bytes (MAX_BODY_BYTES) are allowed.")
    if not whole:
        raise Invalid(f"The body is not valid {encoding}: it ends too early, or more follows.")
    return unpacked


def _gunzip(body: bytes, most_bytes: int) -> tuple[bytes, bool]:
    decompressor = zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        unpacked = decompressor.decompress(body, most_bytes + 1)
    except zlib.error:
        raise Invalid("The body is not valid gzip.") from None
    return unpacked, decompressor.eof and not decompressor.unused_data


def _unzstd(body: bytes, most_bytes: int) -> tuple[bytes, bool]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    try:
        unpacked = decompressor.stream_reader(io.BytesIO(body)).read(most_bytes + 1)
        if len(unpacked) > most_bytes:
            return unpacked, False
        frame = decompressor.decompressobj()  # knows no bound, but where a frame ends
        frame.decompress(body)
    except zstandard.ZstdError:
        raise Invalid("The body is not valid zstd.") from None
    return unpacked, frame.eof and not frame.unused_data


def read_other(body: bytes, media_type: str) -> NewRecords | None:
    """The records of a body that is not JSON: one whose value is the binary of a Protobuf message. None: another media
    type."""
    return NewRecords(value=body) if media_type in PROTOBUF_MEDIA_TYPES else None


def plain(records: Sequence[NewRecord]) -> list[NewRecord]:
    """The records, those in base64 with their binary as value. Raises Unprocessable."""
    places = [f"records[{number}]: value" for number in range(len(records))] if len(records) > 1 else ["value"]
    return [_plain(place, record) if record.encoding else record for place, record in zip(places, records, strict=True)]


def _plain(place: str, record: NewRecord) -> NewRecord:
    value: Any = record.value
    try:
        binary = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise Unprocessable(f"{place} must be a text in base64, as its encoding says.") from None
    return msgspec.structs.replace(record, value=binary, encoding=None)
