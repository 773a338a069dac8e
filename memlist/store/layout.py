"""The format of a store: all its offsets, fields and constants. No other module knows them.

A store is one header page followed by a log of blocks. A block is a header of 80 bytes and its payload:

    | header page | block: record | block: record | block: index table | block: record | ... tail

The header page is an array of 64-bit words, see `Header`. The first ones never change: they identify a named file. The
words from GENERATION to ORDINAL, and the ends of the segments, describe the log; STATE is their checksum.

The payload of a record is its array. In a named file, the path of its source and the name of its decoder follow. The
payload of an index table is an array of 64-bit slots: the offset of a block in units of 16 bytes in the low 48 bits, 16
bits of its digest above.
"""

from __future__ import annotations

import struct
import sys
import uuid
import zlib
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .system import PAGE

# -- the header page --------------------------------------------------------------------------------------------

FORMAT = b"memlist1"
BYTE_ORDER = 0x0102030405060708
MAGIC, ENDIANNESS, PAGE_SIZE, IDENTITY, CHECKSUM, BUSY, STATE = range(7)
GENERATION, INDEX, TAIL, FREED, RECORDS, NBYTES, SLOTS, SEGMENTS, ORDINAL = range(STATE + 1, STATE + 10)
MAX_BYTES, SHARE, SESSION, RELEASES, LOCK_FILE = range(ORDINAL + 1, ORDINAL + 6)
# The counters of an anonymous store, see `counters`. In a named file this space is unused.
COUNTERS, N_COUNTERS = LOCK_FILE + 1, 52
# Two copies of the journal, see `Header.checkpoint`: the words from GENERATION to ORDINAL, offset and array bytes of a
# record that is about to be dropped, and a checksum of these.
JOURNAL = COUNTERS + 2 * (N_COUNTERS + 1)
_JOURNAL_WORDS = ORDINAL + 1 - GENERATION + 3
ENDS = JOURNAL + 2 * _JOURNAL_WORDS
MAX_SEGMENTS = PAGE // 8 - ENDS
_pack_journal = struct.Struct(f"={_JOURNAL_WORDS}Q").pack
# What BUSY may be: IDLE; WRITING without a journal; WITH_JOURNAL and WITH_JOURNAL + 1 with one of its two copies;
# EMPTYING for a purge, a number that a damaged bit does not make.
IDLE, WRITING, WITH_JOURNAL = range(3)
EMPTYING = int.from_bytes(b"emptying", "little")
# The generation counts purges from this bit on, and replaced records below it.
PURGE = 1 << 32
NO_LIMIT = (1 << 64) - 1


def _word(number: int) -> Any:
    "Make the property for one word of the header. Words are read and written atomically."

    def read(header: Header) -> int:
        return header.words[number]

    def write(header: Header, value: int) -> None:
        header.write(8 * number, (value & NO_LIMIT,))  # a count that a damaged file began near its maximum wraps

    return property(read, write)


def _session_word(number: int) -> Any:
    "Make the property for a word that means nothing to a later session: it is kept in memory if the disk is full."

    def read(header: Header) -> int:
        return header.unwritten.get(number, header.words[number])

    def write(header: Header, value: int) -> None:
        header.unwritten[number] = value
        with suppress(OSError):
            header.write(8 * number, (value,))
            del header.unwritten[number]

    return property(read, write)


# Writes 64-bit words, the first one at a byte offset.
Write = Callable[[int, Sequence[int]], None]


class Journal(NamedTuple):
    """Hold words of the header as a writer found them, and offset and array bytes of the record that it was to drop.

    Both are 0 if it was to drop none.
    """

    generation: int
    table: int  # `Header.index`
    tail: int
    freed: int
    records: int
    nbytes: int
    slots: int
    segments: int
    ordinal: int
    dropped: int
    dropped_bytes: int


class Header:
    """Give names to the words of a header page.

    `words` is a view of the page as 64-bit words. Set it to the new view after the page is mapped again. `write` writes
    them; without it, they are written through `words`. It may raise OSError if the disk of a named file is full.
    """

    magic: int = _word(MAGIC)
    byte_order: int = _word(ENDIANNESS)
    page_size: int = _word(PAGE_SIZE)
    identity: int = _word(IDENTITY)
    checksum: int = _word(CHECKSUM)  # of the four words above
    busy: int = _word(BUSY)  # IDLE, or what a writer does, and which copy of the journal tells what it found
    state: int = _word(STATE)  # checksum of all that describes the log; kept in a named file only
    generation: int = _word(GENERATION)
    index: int = _word(INDEX)  # offset and size of the index table in use, see `pack_table`; 0 without one
    tail: int = _word(TAIL)  # where the next block begins
    freed: int = _word(FREED)  # bytes before the tail that were given back to the system
    records: int = _word(RECORDS)
    nbytes: int = _word(NBYTES)  # of the arrays of all records
    slots: int = _word(SLOTS)  # taken slots of the index table
    segments: int = _word(SEGMENTS)
    ordinal: int = _word(ORDINAL)  # the number of the next block
    max_bytes: int = _session_word(MAX_BYTES)  # the budget in bytes; NO_LIMIT if it is a share
    session: int = _session_word(SESSION)  # a random number per session of a named file
    releases: int = _word(RELEASES)  # how often a purge has dropped a named file from memory
    lock_file: int = _session_word(LOCK_FILE)  # inode of the lock file in use

    _share: int = _session_word(SHARE)

    def __init__(self, words: memoryview, write: Optional[Write] = None) -> None:
        self.words, self.write = words, write or partial(_write_words, words)
        # Words that could not be written; and the page as it was, if this is a private copy: see `fulldisk`.
        self.unwritten: Dict[int, int] = {}
        self.frozen: Optional[bytes] = None

    def freeze(self, page: bytes, private: bytes) -> None:
        "Read and write `private`, a copy of the header page, from now on; the page itself is as in `page`."
        self.frozen, self.words = page, memoryview(bytearray(private)).cast("Q")
        self.write = partial(_write_words, self.words)

    @classmethod
    def of_page(cls, page: Any) -> Header:
        "Return the header in the bytes `page`."
        return cls(memoryview(page).cast("Q"))

    def start(self, end: int) -> None:
        "Describe an empty log in one segment that ends at byte `end`. All other words must be zero."
        self.ends, self.tail = [end], PAGE

    @property
    def share(self) -> float:
        "Return the budget as a share of what is available."
        value: float = struct.unpack("<d", self._share.to_bytes(8, "little"))[0]
        return value

    @share.setter
    def share(self, share: float) -> None:
        self._share = int.from_bytes(struct.pack("<d", share), "little")

    @property
    def purges(self) -> int:
        "Return the number of purges so far."
        return self.generation // PURGE

    @property
    def ends(self) -> List[int]:
        "Return the ends of the segments, at most as many as the page has room for."
        return list(self.words[ENDS : ENDS + min(self.segments, MAX_SEGMENTS)])

    @ends.setter
    def ends(self, ends: List[int]) -> None:
        self.write(8 * ENDS, ends)
        self.segments = len(ends)

    def known_ends(self, size: int) -> List[int]:
        "Return, in order, all numbers in a damaged header that may be ends of segments in a file of `size` bytes."
        return sorted({end for end in self.words[ENDS:] if PAGE < end <= size and end % PAGE == 0})

    @property
    def end(self) -> int:
        "Return the end of the last segment."
        return self.words[ENDS + self.segments - 1]

    def segment_end(self, n: int) -> int:
        "Return the end of segment `n`."
        return self.words[ENDS + n]

    def add_segment(self, end: int) -> None:
        "Add a segment that ends at byte `end`. Other processes see it only after its end is written."
        n = self.segments
        self.write(8 * (ENDS + n), (end,))
        self.segments = n + 1

    def checkpoint(self, dropped: int = 0, dropped_bytes: int = 0) -> None:
        """Keep the state of the log in the journal, and say that a change of the log begins, or its next step.

        `dropped` and `dropped_bytes`: a record that will be dropped. The state must be consistent. The journal has two
        copies, and one write of a word makes the other one valid, so that a killed process leaves a whole one.
        """
        other = int(self.busy == WITH_JOURNAL)
        words = [*self.words[GENERATION : ORDINAL + 1], dropped, dropped_bytes]
        at = JOURNAL + other * _JOURNAL_WORDS
        self.write(8 * at, (*words, _journal_sum(words)))
        self.busy = WITH_JOURNAL + other

    @property
    def journal(self) -> Optional[Journal]:
        "Return the state before the change that was not finished; None if that was not kept, or is damaged."
        if self.busy not in (WITH_JOURNAL, WITH_JOURNAL + 1):
            return None
        at = JOURNAL + (self.busy - WITH_JOURNAL) * _JOURNAL_WORDS
        *words, checksum = self.words[at : at + _JOURNAL_WORDS]
        return Journal(*words) if checksum == _journal_sum(words) else None

    def clear_counts(self) -> None:
        "Forget all records, without touching the log."
        self.records = self.nbytes = self.slots = self.freed = 0

    def identity_checksum(self) -> int:
        "Return what `checksum` has to be."
        return zlib.crc32(self.words[:CHECKSUM])

    def state_checksum(self) -> int:
        "Return what `state` has to be."
        n = min(self.segments, MAX_SEGMENTS)
        return zlib.crc32(self.words[ENDS : ENDS + n], zlib.crc32(self.words[GENERATION : ORDINAL + 1]))


def _write_words(words: memoryview, offset: int, values: Sequence[int]) -> None:
    for number, value in enumerate(values, offset // 8):
        words[number] = value


def _journal_sum(words: List[int]) -> int:
    return zlib.crc32(_pack_journal(*words, 0))


def new_page() -> bytes:
    "Return the header page of a new named file."
    page = bytearray(PAGE)
    header = Header.of_page(page)
    header.magic = int.from_bytes(FORMAT, sys.byteorder)  # the same bytes on every machine
    header.byte_order, header.page_size, header.identity = BYTE_ORDER, PAGE, uuid.uuid4().int >> 64
    header.checksum = header.identity_checksum()
    header.start(PAGE)
    header.state = header.state_checksum()
    return bytes(page)


# -- blocks -----------------------------------------------------------------------------------------------------

# magic, kind, dtype, ndim, digest, bytes of payload, shape, source's size and time, number, tag, checksum of the
# payload (in a named file), and a checksum of all that precedes it.
_BODY = struct.Struct("<4sBBBx16sQ4IQqIII")
_CHECKSUM = struct.Struct("<I")
BLOCK_BYTES = _BODY.size + _CHECKSUM.size
BLOCK_MAGIC = b"MLB1"
BLOCK_ALIGN = 16
RECORD, NOTE, TABLE, GAP = range(1, 5)
DTYPES = tuple(np.dtype(t) for t in ("u1", "b1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"))
MAX_NDIM = 4
NO_DIGEST = bytes(16)
NUMBERS = 1 << 32  # blocks are numbered modulo this
# The size that stands for the source of a record that was made from no file.
NO_FILE = NO_LIMIT
# The most bytes that may follow the array of a record, and the most that NumPy can address.
MAX_TRAILER, MAX_ARRAY = 1 << 16, (1 << 63) - 1

# The magic, the kind and the hash of a block lie in its first bytes, see `indexed`.
HEAD_BYTES = 16
_DIGEST, _PAYLOAD = slice(8, 24), struct.Struct("<24xQ48x")
_SHAPE, _VERSION, _VERSION_BYTES = struct.Struct("<32x4I32x"), struct.Struct("<48xQq16x"), slice(48, 64)
_NUMBER, _SUM = struct.Struct("<64xI12x"), struct.Struct("<72xI4x")
# The CRC-32 of any bytes followed by their own CRC-32.
_RESIDUE = zlib.crc32(_CHECKSUM.pack(zlib.crc32(b"")))

# dtype, ndim, four extents, number and tag of a record: all that a read needs, in one call.
unpack_record = struct.Struct("<5xBB25x4I16xII8x").unpack


class Block(bytes):
    "Give names to the fields of a block's header. This is a copy: the block itself may be dropped meanwhile."

    @property
    def kind(self) -> int:
        "Return RECORD, NOTE, TABLE or GAP."
        return self[4]

    @property
    def digest(self) -> bytes:
        "Return the digest of the key."
        return self[_DIGEST]

    @property
    def nbytes(self) -> int:
        "Return the length of the payload in bytes."
        return int(_PAYLOAD.unpack(self)[0])

    @property
    def array_bytes(self) -> int:
        "Return the length in bytes of the array, which comes first in the payload of a record."
        count = 1
        for extent in _SHAPE.unpack(self)[: self[6]]:
            count *= extent
        return int(count * DTYPES[self[5]].itemsize)

    @property
    def array_span(self) -> int:
        "Return the product that NumPy computes to see whether an array can exist: extents of zero are left out."
        count = 1
        for extent in _SHAPE.unpack(self)[: self[6]]:
            count *= extent or 1
        return int(count * DTYPES[self[5]].itemsize)

    @property
    def trailer_bytes(self) -> int:
        "Return how many bytes follow the array of a record. Negative in a block that is not valid."
        return self.nbytes - self.array_bytes

    @property
    def length(self) -> int:
        "Return the distance in bytes from this block to the next one."
        return block_length(self.nbytes)

    @property
    def version(self) -> bytes:
        "Return size and time of the source as bytes: equal for records made from the same version of a file."
        return self[_VERSION_BYTES]

    @property
    def source(self) -> Optional[Tuple[int, int]]:
        "Return `Trust.version` of the file that the record was made from; None if it was made from none."
        size, mtime = _VERSION.unpack(self)
        return None if size == NO_FILE else (size, mtime)

    @property
    def number(self) -> int:
        "Return a number that no other block of the store has."
        return int(_NUMBER.unpack(self)[0])

    @property
    def checksum(self) -> int:
        "Return the CRC-32 of the payload; 0 in an anonymous store."
        return int(_SUM.unpack(self)[0])


def pack_block(
    kind: int,
    nbytes: int,
    digest: bytes = NO_DIGEST,
    dtype: np.dtype = DTYPES[0],
    shape: Tuple[int, ...] = (),
    version: Tuple[int, int] = (NO_FILE, 0),
    number: int = 0,
    tag: int = 0,
    checksum: int = 0,
) -> bytes:
    "Return the header of a block with a payload of `nbytes`."
    extents = (*shape, 0, 0, 0, 0)[:MAX_NDIM]
    code, ndim = DTYPES.index(dtype), len(shape)
    body = _BODY.pack(BLOCK_MAGIC, kind, code, ndim, digest, nbytes, *extents, *version, number, tag, checksum)
    return body + _CHECKSUM.pack(zlib.crc32(body))


class Headers(NamedTuple):
    "Hold copies of the headers of n blocks, as 64-bit words."

    words: np.ndarray  # (n, words) uint64

    def numbers(self) -> np.ndarray:
        "Return the number of each block, (n,) uint64."
        return self.words[:, 8] & np.uint64(NUMBERS - 1)  # type: ignore[no-any-return]

    def tags(self) -> np.ndarray:
        "Return the tag of each record, (n,) uint64."
        return self.words[:, 8] >> np.uint64(32)  # type: ignore[no-any-return]

    def form(self, k: int) -> Tuple[int, Tuple[int, ...]]:
        "Return the position in `DTYPES` of the dtype of record `k`, and its shape."
        code, ndim, *extents = unpack_record(self.words[k])
        return code, (*extents[: min(ndim, MAX_NDIM)],)


def storable(array: Any) -> np.ndarray:
    "Return `array` as an array; raises TypeError for a dtype, and ValueError for a shape, that can't be stored."
    array = np.asarray(array)
    if array.dtype not in DTYPES:
        dtypes = ", ".join(map(str, DTYPES))
        raise TypeError(f"an array of dtype {array.dtype} can't be stored: use one of {dtypes}")
    if array.ndim > MAX_NDIM or max(array.shape, default=0) >= 1 << 32:
        raise ValueError(f"an array of shape {array.shape} can't be stored: four dimensions are the most")
    return array


def block_for(digest: bytes, mapping: Any, at: int) -> Optional[Block]:
    "Return the header at byte `at` of `mapping` if it is intact and has this digest; None if not."
    block = mapping[at : at + BLOCK_BYTES]
    return Block(block) if block[_DIGEST] == digest and zlib.crc32(block) == _RESIDUE else None


def parse_block(block: bytes) -> Optional[Block]:
    "Return the header in these bytes if it is intact and its fields are valid; None if not."
    if len(block) < BLOCK_BYTES or block[:4] != BLOCK_MAGIC or zlib.crc32(block) != _RESIDUE:
        return None
    if not RECORD <= block[4] <= GAP or block[5] >= len(DTYPES) or block[6] > MAX_NDIM:
        return None
    parsed = Block(block)
    if parsed.kind == RECORD and (parsed.array_span > MAX_ARRAY or not 0 <= parsed.trailer_bytes <= MAX_TRAILER):
        return None
    return parsed


def block_length(nbytes: int) -> int:
    "Return the length of a block with a payload of `nbytes`, header and padding included."
    return -(-(BLOCK_BYTES + nbytes) // BLOCK_ALIGN) * BLOCK_ALIGN


def whole_pages(offset: int, nbytes: int) -> int:
    "Return how many bytes are freed when the payload of a block is given back to the system."
    start, stop = -(-(offset + BLOCK_BYTES) // PAGE) * PAGE, (offset + BLOCK_BYTES + nbytes) // PAGE * PAGE
    return max(0, stop - start)


# -- the index --------------------------------------------------------------------------------------------------

FIRST_TABLE_BITS, MAX_TABLE_BITS = 9, 40
TAG_SHIFT = 48
_OFFSET = (1 << TAG_SHIFT) - 1


#: The numbers of the format that `probing` needs, in the order that it describes.
FORM = np.array([TAG_SHIFT, BLOCK_ALIGN, BLOCK_BYTES, 1, _RESIDUE, 40, 48, 4], np.uint64)


def digest_of(key: bytes) -> bytes:
    "Return the digest under which a key is stored."
    return blake2b(key, digest_size=16).digest()


def hash_of(digest: bytes) -> int:
    "Return the hash of a digest: its low bits choose the slot, its high ones are kept in it."
    return int.from_bytes(digest[:8], "little")


def pack_slot(offset: int, hash_: int) -> int:
    "Return the slot for the block at `offset`, whose digest has this hash."
    return offset // BLOCK_ALIGN | hash_ >> TAG_SHIFT << TAG_SHIFT


def slot_offset(slot: int) -> int:
    "Return the offset of the block that a slot points to."
    return (slot & _OFFSET) * BLOCK_ALIGN


def slot_values(offsets: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    "Return the slots for the blocks at `offsets`, whose digests have these hashes: `pack_slot` for uint64 arrays."
    shift = np.uint64(TAG_SHIFT)
    return offsets // np.uint64(BLOCK_ALIGN) | hashes >> shift << shift


def slot_offsets(slots: np.ndarray) -> np.ndarray:
    "Return the offsets of the blocks that `slots` point to: `slot_offset` for a uint64 array."
    return (slots & np.uint64(_OFFSET)) * np.uint64(BLOCK_ALIGN)


def indexed(heads: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return which blocks may be in an index (records and notes), and the hashes of their digests.

    `heads`: the first `HEAD_BYTES` of each block, in an array of dtype void. Checksums are not verified, because
    `block_for` refuses a damaged block whatever slot leads to it.
    """
    heads = heads.view("<u8").reshape(-1, 2)
    magic, kinds = heads[:, 0] & np.uint64((1 << 32) - 1), heads[:, 0] >> np.uint64(32) & np.uint64(255)
    live = (magic == int.from_bytes(BLOCK_MAGIC, "little")) & ((kinds == RECORD) | (kinds == NOTE))
    return live, heads[:, 1].astype(np.uint64)


def pack_table(offset: int, bits: int) -> int:
    "Return `Header.index` for a table of `1 << bits` slots in the block at `offset`."
    return offset // BLOCK_ALIGN << 8 | bits


def table_offset(index: int) -> int:
    "Return the offset of the block with the index table."
    return (index >> 8) * BLOCK_ALIGN


def table_bits(index: int) -> int:
    "Return the size of the index table, as a power of two."
    return index & 255


def too_full(slots: int, bits: int) -> bool:
    "Return whether a table is more than four fifths full."
    return slots * 5 > 4 << bits
