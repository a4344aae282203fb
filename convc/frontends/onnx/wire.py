"""Finds the weights inside the bytes of a model, so that protobuf never copies them.

A serialised model is a tree of length-delimited fields. The raw data of the main graph's initialisers is nearly all of
it: `split` cuts those payloads out and returns them as views, beside the rest, which protobuf parses as usual.
"""

from __future__ import annotations

from collections.abc import Iterator

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
SMALLEST_CUT = 256
_LENGTH_DELIMITED = 2


class _Malformed(Exception):
    """The bytes are not what `split` can cut; protobuf will say what is wrong with them."""


def split(data: memoryview) -> tuple[bytes | memoryview, dict[int, memoryview]]:
    """(bytes to parse, raw data by position in ``graph.initializer``).

    Bytes that do not look like a model come back whole, with nothing cut out.
    """
    try:
        return _split(data)
    except _Malformed:
        return data, {}


def _split(data: memoryview) -> tuple[bytes | memoryview, dict[int, memoryview]]:
    graphs = [field for field in _fields(data, 0, len(data)) if field[0] == GRAPH]
    if len(graphs) != 1 or graphs[0][1] != _LENGTH_DELIMITED:
        return data, {}
    _, _, start, begin, end = graphs[0]
    pieces: list[bytes | memoryview] = []
    cuts: dict[int, memoryview] = {}
    kept, index = begin, 0
    for number, wire_type, tag, inner, stop in _fields(data, begin, end):
        if number != INITIALIZER or wire_type != _LENGTH_DELIMITED:
            continue
        raw = _raw_data(data, inner, stop)
        if raw is not None:
            raw_tag, raw_begin, raw_end = raw
            body = [data[inner:raw_tag], data[raw_end:stop]]
            head = _varint(INITIALIZER << 3 | _LENGTH_DELIMITED) + _varint(sum(map(len, body)))
            pieces += [data[kept:tag], head, *body]
            cuts[index] = data[raw_begin:raw_end]
            kept = stop
        index += 1
    pieces.append(data[kept:end])
    head = _varint(GRAPH << 3 | _LENGTH_DELIMITED) + _varint(sum(map(len, pieces)))
    return b"".join([data[:start], head, *pieces, data[end:]]), cuts


def _raw_data(data: memoryview, begin: int, end: int) -> tuple[int, int, int] | None:
    """(position of the tag, first byte, last byte + 1) of a tensor's raw data, where it is worth cutting out."""
    found = [field for field in _fields(data, begin, end) if field[0] == RAW_DATA]
    if len(found) != 1 or found[0][1] != _LENGTH_DELIMITED:
        return None
    _, _, tag, first, last = found[0]
    return (tag, first, last) if last - first >= SMALLEST_CUT else None


def _fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, wire type, position of the tag, first byte, last byte + 1) of the fields of one message."""
    while position < end:
        tag_at = position
        tag, position = _read_varint(data, position, end)
        wire_type = tag & 7
        if wire_type == 0:
            begin, (_, position) = position, _read_varint(data, position, end)
        elif wire_type == _LENGTH_DELIMITED:
            length, begin = _read_varint(data, position, end)
            position = begin + length
        elif wire_type in (1, 5):
            begin, position = position, position + (8 if wire_type == 1 else 4)
        else:
            raise _Malformed
        if position > end:
            raise _Malformed
        yield tag >> 3, wire_type, tag_at, begin, position


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _Malformed
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _Malformed


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
