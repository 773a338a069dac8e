"""Break cache files in all ways that a program can think of, and use them: `run(range(1000))` runs a thousand cases.

A case is a number, from which a file, a few changes to it and their places are drawn. Half of the changes get right
checksums, as if who made them knew the format. Each case opens the file twice and reads, writes, checks and empties it.
Allowed are a `CacheFileError`, a record less, or the right pixels.

Cases run in a process of their own, because a damaged file could kill it or keep it for ever. To look at one case:
`python tests/fuzz.py 17 18`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Set, Tuple

import numpy as np

from memlist.store import CacheFileError, ImageStore, Source, layout, region
from memlist.store.system import PAGE

# A case that takes longer counts as hung. They take some hundredths of a second on a machine with nothing else to do.
PATIENCE = 60
HUGE = 40 << 30
BLOCK = struct.Struct("<4sBBBx16sQ4IQqIII")  # a block's header without its checksum, see `layout`
NBYTES, SHAPE, NUMBER = 5, 6, 12
Record = Tuple[bytes, Tuple[int, ...], str, int]


class Made(NamedTuple):
    "Hold a sound file: its bytes, its records by key, and where its blocks and its index table begin."

    data: bytes
    records: Dict[bytes, Record]
    blocks: List[int]
    table: int
    bits: int


def record(array: np.ndarray, tag: int) -> Record:
    return array.tobytes(), array.shape, str(array.dtype), tag


def content(i: int) -> np.ndarray:
    "Return the array of record `i`, of all sorts."
    shape = [(20 + i % 7, 30, 3), (i % 90,), (), (0, 5), (3, 7, 2, i % 11)][i % 5 if i % 3 == 0 else 0]
    draw = np.random.default_rng(i).integers(0, 256, 8 * max(1, int(np.prod(shape))), dtype=np.uint8)
    if i % 16 == 5:
        draw[:] = 0  # black
    dtype = layout.DTYPES[i % 12 if i % 3 == 0 else 0]
    dtype = np.dtype("u1") if dtype.kind == "b" else dtype
    return np.frombuffer(draw.tobytes(), dtype)[: int(np.prod(shape))].reshape(shape)


def make(folder: Path, n: int, large: int = 0) -> Made:
    "Make a file of `n` records, some of them replaced, some with a source, with notes and gaps between them."
    path, source = folder / "made", Source.of(__file__)
    images = ImageStore.open(path, maker=b"fuzz")
    records = {}
    for i in range(n):
        key = b"%d" % i
        if i % 10 == 3:
            images.put(key, np.zeros(3000, np.uint8))
        assert images.put(key, content(i), tag=i, replace=True, source=source if i % 4 == 1 else None)
        records[key] = record(content(i), i)
        if i % 25 == 0:
            images.note(key)
    for i in range(large):
        key, array = b"large %d" % i, np.zeros((700, 1000 + i, 3), np.uint8)
        array[300:310] = 7 + i
        assert images.put(key, array)
        records[key] = record(array, 0)
    header = images._header
    blocks = [entry.offset for entry in images._log.walk(header.tail)]
    table, bits, end = layout.table_offset(header.index), layout.table_bits(header.index), header.end
    del images
    data = path.read_bytes()[:end]
    path.unlink()
    return Made(data, records, blocks, table, bits)


def torn(folder: Path, draw: random.Random) -> Made:
    "Copy a file piece by piece while others write to it and purge it."
    path = folder / "live"
    images = ImageStore.open(path, maker=b"fuzz")
    records: Dict[bytes, Record] = {}
    pieces: List[bytes] = []
    for i in range(150):
        key, array = b"%d" % i, content(i)
        images.put(key, array, tag=i)
        records[key] = record(array, i)
        if draw.random() < 0.1:
            pieces.append(os.pread(images._region.fd, draw.randrange(1, 9) * PAGE, sum(map(len, pieces))))
        if draw.random() < 0.01:
            images.purge(file=True)
    pieces.append(os.pread(images._region.fd, 1 << 30, sum(map(len, pieces))))
    del images
    path.unlink()
    return Made(b"".join(pieces), records, [PAGE], PAGE, 9)


class Case:
    "Draw a case, and write its file."

    def __init__(self, seed: int, made: List[Made], folder: Path) -> None:
        self.draw = random.Random(seed)
        self.made = torn(folder, self.draw) if seed % 10 == 9 else made[seed % len(made)]
        self.data, self.path = bytearray(self.made.data), folder / "cache"
        self.holes: List[Tuple[int, int]] = []
        self.loose = False  # whether a header with a right checksum lies about a payload
        self.length = len(self.data)
        changes: List[Callable[[], None]] = [
            self.flip, self.overwrite, self.header_word, self.header_word, self.field, self.field, self.slot,
            self.swap, self.cut, self.extend, self.hole, self.fill_table, self.huge_record, self.overlap, self.end,
        ]  # fmt: skip
        for _ in range(
            self.draw.choice([0, 1, 1, 1, 2, 3, 8]) if seed % 10 == 9 else self.draw.choice([1, 1, 2, 3, 8])
        ):
            self.draw.choice(changes)()
        del self.data[len(self.data) // 8 * 8 :]
        if self.draw.random() < 0.6 and len(self.data) >= PAGE:
            self.seal()
        self.write()

    def number(self) -> int:
        "Return a number that is likely to be special to somebody."
        draw, tail = self.draw, len(self.data)
        base = draw.choice([0, 1, 8, 16, 80, PAGE, tail, HUGE, 1 << 31, 1 << 32, 1 << 48, 1 << 63, 1 << 64])
        block = draw.choice(self.made.blocks)
        return draw.choice([base, base - 1, base + 1, base - 16, block, block + 80, draw.getrandbits(64)]) % (1 << 64)

    def word(self, at: int, value: int) -> None:
        self.data[at : at + 8] = value.to_bytes(8, sys.byteorder)

    def place(self) -> int:
        "Return any place: often one in the header, or in the header of a block."
        draw = self.draw
        block = draw.choice(self.made.blocks) + draw.randrange(80)
        return min(len(self.data) - 8, draw.choice([draw.randrange(PAGE), block, draw.randrange(len(self.data))]))

    def flip(self) -> None:
        self.data[self.place()] ^= 1 << self.draw.randrange(8)

    def overwrite(self) -> None:
        at, n = self.place(), self.draw.choice([1, 4, 16, 100, 5000])
        with_what = bytes(n) if self.draw.random() < 0.4 else self.draw.getrandbits(8 * n).to_bytes(n, "little")
        self.data[at : at + n] = with_what

    def header_word(self) -> None:
        first = layout.CHECKSUM if self.draw.random() < 0.95 else 0
        self.word(8 * self.draw.randrange(first, layout.LOCK_FILE + 1), self.number())

    def end(self) -> None:
        "Change an end of a segment, or their number."
        at = self.draw.choice([layout.SEGMENTS, layout.ENDS, layout.ENDS + 1, layout.ENDS + self.draw.randrange(9)])
        self.word(8 * at, self.draw.choice([self.number(), self.draw.randrange(len(self.data)) // PAGE * PAGE, 7, 2]))

    def fields(self, at: int) -> List[Any]:
        return list(BLOCK.unpack_from(self.data.ljust(at + 80, b"\0"), at))

    def put(self, at: int, fields: List[Any]) -> None:
        "Write the header of a block, often with a right checksum."
        body = BLOCK.pack(*fields)
        sound = self.draw.random() < 0.7
        self.loose = self.loose or sound
        self.data[at : at + 80] = body + (zlib.crc32(body) if sound else 1).to_bytes(4, "little")

    def field(self) -> None:
        "Change a field of a block's header."
        at = self.draw.choice(self.made.blocks)
        fields, i = self.fields(at), self.draw.randrange(1, len(BLOCK.unpack(bytes(76))))
        value = self.number()
        if isinstance(fields[i], bytes):
            fields[i] = self.fields(self.draw.choice(self.made.blocks))[i]
        elif i in (1, 2, 3):
            fields[i] = value % 14 if self.draw.random() < 0.8 else value % 256
        elif i == NBYTES:
            fields[i] = self.draw.choice([value, fields[i] + 16 * self.draw.randrange(-9, 999)]) % (1 << 64)
        elif i == SHAPE + 5:
            fields[i] = value - (1 << 63)
        elif i == SHAPE + 4:
            fields[i] = value
        else:
            fields[i] = value % (1 << 32)
        if i == SHAPE and self.draw.random() < 0.3:
            fields[3], fields[SHAPE : SHAPE + 4] = 4, [0, (1 << 32) - 1, (1 << 32) - 1, (1 << 32) - 1]
        self.put(at, fields)

    def slot(self) -> None:
        "Let a slot of the index point to anything."
        at = self.made.table + 80 + 8 * self.draw.randrange(1 << self.made.bits)
        other = self.made.table + 80 + 8 * self.draw.randrange(1 << self.made.bits)
        value = int.from_bytes(self.data[other : other + 8], sys.byteorder)
        target = self.draw.choice([self.number(), self.draw.choice(self.made.blocks), self.made.table])
        tag = value >> 48 << 48
        self.word(at, self.draw.choice([value, target, tag | target // 16 & (1 << 48) - 1, 0]))

    def swap(self) -> None:
        "Swap two blocks, or copy one over the other."
        one, other = self.draw.choice(self.made.blocks), self.draw.choice(self.made.blocks)
        n = self.draw.choice([80, 80 + self.fields(one)[NBYTES] % 100_000])
        first, second = self.data[one : one + n], self.data[other : other + n]
        self.data[other : other + len(second)] = first[: len(second)].ljust(len(second), b"\0")
        if self.draw.random() < 0.5:
            self.data[one : one + len(first)] = second[: len(first)].ljust(len(first), b"\0")
        self.loose = True  # two blocks may now have one digest, of which one is an older version

    def cut(self) -> None:
        n = self.draw.randrange(len(self.data))
        del self.data[max(n, self.draw.choice([0, PAGE])) + 8 :]

    def extend(self) -> None:
        n = self.draw.choice([1, PAGE - 1, PAGE, 100_000])
        self.data += bytes(n) if self.draw.random() < 0.5 else self.data[PAGE:][:n]
        if self.draw.random() < 0.3:
            self.length = HUGE

    def hole(self) -> None:
        at = self.draw.randrange(len(self.data)) // PAGE * PAGE
        n = self.draw.choice([1, 2, 20, 1000]) * PAGE
        n = min(n, len(self.data) - at)
        self.data[at : at + n] = bytes(n)

    def fill_table(self) -> None:
        "Leave no slot, or few slots, of the index free."
        at, n = self.made.table + 80, 8 << self.made.bits
        if at + n <= len(self.data):
            kept = self.draw.choice([0, 0, 8, 800])
            self.data[at : at + n - kept] = self.draw.getrandbits(8 * (n - kept)).to_bytes(n - kept, "little")
            if self.draw.random() < 0.5:
                self.word(8 * layout.SLOTS, (n - kept) // 8)

    def huge_record(self) -> None:
        "Let a record claim gigabytes that lie in a hole."
        self.length = HUGE + (1 << 30)
        at = self.draw.choice(self.made.blocks)
        fields = self.fields(at)
        fields[NBYTES], fields[1:4], fields[SHAPE : SHAPE + 2] = HUGE, [layout.RECORD, 0, 2], [HUGE >> 20, 1 << 20]
        self.put(at, fields)
        for word in (layout.TAIL, layout.ENDS):
            self.word(8 * word, self.length)
        self.word(8 * layout.SEGMENTS, 1)

    def overlap(self) -> None:
        "Let a block be as long as several, or end within another one."
        at = self.draw.choice(self.made.blocks)
        fields = self.fields(at)
        fields[NBYTES] = max(0, self.draw.choice(self.made.blocks) - at - 80 + self.draw.choice([0, 0, 16, 160]))
        fields[1] = self.draw.choice([fields[1] % 5, layout.GAP, layout.TABLE, layout.RECORD])
        self.put(at, fields)

    def seal(self) -> None:
        "Give the header right checksums."
        page = bytearray(self.data[:PAGE])
        header = layout.Header.of_page(page)
        header.checksum, header.state = header.identity_checksum(), header.state_checksum()
        header.busy = self.draw.choice([0, 0, 0, header.busy, 1, layout.EMPTYING])
        self.data[:PAGE] = page

    def write(self) -> None:
        "Write the file. Pages of zeros become holes, in some cases."
        sparse = self.length > len(self.data) or self.draw.random() < 0.3
        with open(self.path, "wb") as file:
            for at in range(0, len(self.data), PAGE):
                page = bytes(self.data[at : at + PAGE])
                if not sparse or page.count(0) < len(page):
                    os.pwrite(file.fileno(), page, at)
            file.truncate(max(len(self.data), self.length if self.length > len(self.made.data) else 0))


class Wrong(Exception):
    "Raised for a wrong pixel, and for a store that does not do as it should."


def right(images: ImageStore, case: Case) -> int:
    "Return how many of the records are there; raise `Wrong` if one has wrong pixels."
    found, all_bytes = 0, {one[0] for one in case.made.records.values()}
    for key, (pixels, shape, dtype, tag) in case.made.records.items():
        one = images.get(key)
        if one is None:
            continue
        found += 1
        if one.array.nbytes > 1 << 30:  # a record over a hole; nothing else is so large
            raise Wrong(f"{key!r} claims {one.array.nbytes} bytes")
        got = one.array.tobytes()
        if (got, one.array.shape, str(one.array.dtype), one.tag) != (pixels, shape, dtype, tag) and not (
            case.loose and any(whole.startswith(got) or got.startswith(whole) for whole in all_bytes)
        ):
            raise Wrong(f"{key!r} has wrong pixels")
    return found


def use(case: Case) -> str:
    "Use the file in every way. Returns what came of it: 'refused', or how many records were found."
    try:
        images = ImageStore.open(case.path, maker=b"fuzz")
    except CacheFileError:
        return "refused"
    found = right(images, case)
    info, _ = images.info(), (images.sources(), images.allocated(), images.check(), repr(images))
    if info.records < 0 or info.nbytes < 0:
        raise Wrong(f"{info}")
    right(images, case)
    new = np.full((40, 50), 9, np.uint8)
    room = info.max_ram > images.taken + (1 << 21)
    for key in (b"new", *random.Random(0).sample(sorted(case.made.records), 5)):
        if images.put(key, new, replace=True):
            case.made.records[key] = record(new, 0)
            one = images.get(key)
            if one is None or not (one.array == 9).all():
                raise Wrong("what was put is not there")
        elif room:
            raise Wrong("there is room, but nothing can be put")
    images.note(b"a"), images.count(True), images.purge()
    right(images, case)
    images.check(fix=True)
    left = images.check()
    if left:
        raise Wrong(f"repaired, and still: {left}")
    kept = right(images, case)
    del images
    images = ImageStore.open(case.path, maker=b"fuzz")
    if right(images, case) < kept or images.check():
        raise Wrong("the next session has fewer records, or problems")
    images.purge(file=True)
    if len(images) or right(images, case) or (room and not images.put(b"new", new)):
        raise Wrong("it was emptied, and is not empty or can't be filled")
    return "whole" if found == len(case.made.records) else "some" if found else "none"


def _cases(first: int, last: int) -> None:
    "Run cases in this process, and print a line of JSON for each."
    warnings.simplefilter("ignore")
    region.NAMED_SEGMENT = region.FILE_SEGMENT = 8 * PAGE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [make(folder, 120), make(folder, 500), make(folder, 40, large=2)]
        for seed in range(first, last):
            print(json.dumps([seed, "began"]), flush=True)
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            case = Case(seed, [one._replace(records=dict(one.records)) for one in made], folder)
            try:
                outcome = use(case)
            except Exception:
                outcome = "fault: " + traceback.format_exc()
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps([seed, outcome]), flush=True)
            for left in folder.iterdir():
                left.unlink()


def run(seeds: Iterable[int]) -> Tuple[Counter, Dict[int, str]]:
    """Run these cases, a range without gaps.

    Returns how many files were refused, and how many gave all records ('whole'), 'some' or 'none'; and what is wrong
    by case.
    """
    counts: Counter = Counter()
    faults: Dict[int, str] = {}
    todo: Set[int] = set(seeds)
    while todo:
        command = [sys.executable, __file__, str(min(todo)), str(max(todo) + 1)]
        done = subprocess.run(command, capture_output=True, text=True)
        running = min(todo)
        for line in done.stdout.splitlines():
            running, outcome = json.loads(line)
            if outcome == "began":
                continue
            todo.discard(running)
            counts[outcome.split(":")[0]] += 1
            if outcome.startswith("fault"):
                faults[running] = outcome
        if running in todo:  # the process hung or was killed by a signal
            todo -= set(range(min(todo), running + 1))
            counts["fault"] += 1
            faults[running] = f"ended with {done.returncode}: {done.stderr[-2000:]}"
        elif done.returncode:
            raise RuntimeError(done.stderr)
    return counts, faults


if __name__ == "__main__":
    _cases(int(sys.argv[1]), int(sys.argv[2]))
