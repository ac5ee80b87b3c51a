"""Packed rows turned into columns many at a time, a cell of all rows in one step with numpy.

Rows of one measurement differ in little, so the place of a cell is known once those before it
are: it lies at another byte in each row, but its length follows from its first byte. No Python
object is made for a number. Whatever is out of the ordinary (a cell of another kind, a row of
another length) is left to store/columns.py: `columns` gives None then.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenswarm.store.columns import Column, Constant
from tokenswarm.store.schema import Kind

Packed: TypeAlias = msgspec.Raw
"""One row as msgpack, as it lies in a frame."""

_Places: TypeAlias = NDArray[np.int64]
_Cells: TypeAlias = tuple[Column | Constant, _Places]
"""A column, and where the next one begins in each row."""

WORD = 8
_NIL, _FALSE, _TRUE, _FLOAT64 = 0xC0, 0xC2, 0xC3, 0xCB
_UINT8, _UINT64, _INT8, _INT64 = 0xCC, 0xCF, 0xD0, 0xD3
_STR8, _STR16, _ARRAY16 = 0xD9, 0xDA, 0xDC

_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_list = msgspec.msgpack.Decoder(list[_Int32] | None).decode
_json = msgspec.json.Encoder().encode


def _int_bytes() -> NDArray[np.int64]:
    """Bytes after an integer's first, by that one; 0 for a missing one, -1 for no integer."""
    after = np.full(256, -1, dtype=np.int64)
    after[:0x80] = after[0xE0:] = after[_NIL] = 0
    after[_UINT8 : _UINT64 + 1] = after[_INT8 : _INT64 + 1] = [1, 2, 4, 8]
    return after


_INT_BYTES = _int_bytes()


class _Bytes:
    """All rows end to end: `data`, its `bytes`, and the `words` of 8 bytes that begin at each."""

    def __init__(self, rows: Sequence[Packed]):
        self.data = b"".join(rows)
        padded = self.data + bytes(2 * WORD)
        self.bytes = np.frombuffer(padded, dtype=np.uint8)
        self.words = np.ndarray(len(padded) - WORD + 1, ">u8", padded, strides=(1,))
        self.ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
        self.starts = np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    def word(self, at: _Places) -> NDArray[np.uint64]:
        return self.words[at].astype(np.uint64)


def columns(rows: Sequence[Packed], kinds: Sequence[Kind]) -> list[Column | Constant] | None:
    """A column for each of `kinds`, as store/columns.py makes them; None: not so simple.

    `rows`, one or more, are arrays in msgpack. The first column is the time and never missing.
    """
    b = _Bytes(rows)
    at = _inside(b, len(kinds))
    if at is None:
        return None
    found: list[Column | Constant] = []
    for kind in kinds:
        cells = _READ[kind](b, at)
        if cells is None:
            return None
        made, at = cells
        found.append(made)
    first = found[0]
    whole = isinstance(first, Column) and not first.missing.any()
    return found if whole and np.array_equal(at, b.ends) else None


def _inside(b: _Bytes, width: int) -> _Places | None:
    """Where the first cells lie; None unless every row is an array of `width`."""
    if width < 16:
        head, mark = 1, bytes([0x90 | width])
    else:
        head, mark = 3, bytes([_ARRAY16, width >> 8, width & 255])
    same = all(bool(np.all(b.bytes[b.starts + i] == mark[i])) for i in range(head))
    return b.starts + head if same else None


def _floats(b: _Bytes, at: _Places) -> _Cells | None:
    tag = b.bytes[at]
    real, nil = tag == _FLOAT64, tag == _NIL
    if nil.all():
        return Constant(None, len(at)), at + 1
    if not (real | nil).all():
        return None
    data = b.word(at + 1).view(np.float64)
    missing = nil | ~np.isfinite(data)
    refused = int(np.count_nonzero(missing) - np.count_nonzero(nil))
    return Column(data, missing, refused), at + 1 + WORD * real


def _integers(b: _Bytes, at: _Places) -> _Cells | None:
    tag = b.bytes[at]
    after, nil = _INT_BYTES[tag], tag == _NIL
    if nil.all():
        return Constant(None, len(at)), at + 1
    word = b.word(at + 1)
    if (after < 0).any() or ((tag == _UINT64) & (word >> 63 != 0)).any():
        return None
    unused = np.minimum(8 * (WORD - after), 63)  # where all bits are, the byte itself is taken
    data = (word >> unused.astype(np.uint64)).view(np.int64)
    signed = (tag >= _INT8) & (tag <= _INT64)
    if signed.any():
        data = np.where(signed, word.view(np.int64) >> unused, data)
    data = np.where(after == 0, tag.view(np.int8), data)
    return Column(data, nil, 0), at + 1 + after


def _booleans(b: _Bytes, at: _Places) -> _Cells | None:
    tag = b.bytes[at]
    nil, true = tag == _NIL, tag == _TRUE
    if nil.all():
        return Constant(None, len(at)), at + 1
    return (Column(true, nil, 0), at + 1) if (nil | true | (tag == _FALSE)).all() else None


def _texts(b: _Bytes, at: _Places) -> _Cells | None:
    tag = b.bytes[at]
    nil, short = tag == _NIL, tag & 0xE0 == 0xA0
    if nil.all():
        return Constant(None, len(at)), at + 1
    long, longer = tag == _STR8, tag == _STR16
    if not (nil | short | long | longer).all():
        return None
    word = b.word(at + 1)
    begin = at + 1 + long + 2 * longer
    end = begin + np.where(short, tag & 0x1F, 0) + np.where(long, word >> 56, 0).astype(np.int64)
    end += np.where(longer, word >> 48, 0).astype(np.int64)
    try:
        same = not nil.any() and _same_text(b, begin, end)
        return (same or _objects(b, begin, end, nil)), end
    except UnicodeDecodeError:
        return None


def _same_text(b: _Bytes, begin: _Places, end: _Places) -> Constant | None:
    """The column as a constant; None when its texts differ."""
    length = int(end[0] - begin[0])
    if (end - begin != length).any():
        return None
    for i in range(0, length, WORD):
        word = b.word(begin + i) >> max(0, 8 * (WORD - length + i))
        if (word != word[0]).any():
            return None
    return Constant(b.data[begin[0] : end[0]].decode(), len(begin))


def _objects(b: _Bytes, begin: _Places, end: _Places, nil: NDArray[np.bool_]) -> Column:
    found = np.empty(len(begin), dtype=object)
    some = ~nil
    pairs = zip(begin[some].tolist(), end[some].tolist(), strict=True)
    found[some] = [b.data[i:j].decode() for i, j in pairs]
    return Column(found, nil, 0)


def _last_lists(b: _Bytes, at: _Places) -> _Cells | None:
    """Lists of integers that are each row's last cell."""
    found = np.empty(len(at), dtype=object)
    cells = (b.data[i:j] for i, j in zip(at.tolist(), b.ends.tolist(), strict=True))
    try:  # one by one, so that the numbers of one list lie where those of the last one lay
        found[:] = [None if (v := _list(cell)) is None else _json(v).decode() for cell in cells]
    except msgspec.DecodeError:
        return None
    return Column(found, b.bytes[at] == _NIL, 0), b.ends


_READ: dict[Kind, Callable[[_Bytes, _Places], _Cells | None]] = {
    "float": _floats,
    "int": _integers,
    "str": _texts,
    "bool": _booleans,
    "ints": _last_lists,
}
