"""The store against a plain dict, in random sequences of calls."""

from __future__ import annotations

import os
import tempfile
from typing import Dict, Tuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stores import key

from memlist.store import ImageStore, layout
from memlist.store.system import PAGE


class Model(RuleBasedStateMachine):
    "Compare the store with a plain dict."

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.images = self.open()
        self.model: Dict[bytes, Tuple[bytes, int]] = {}

    def open(self) -> ImageStore:
        return ImageStore("3MB")

    def teardown(self) -> None:
        self.folder.cleanup()

    keys = st.integers(0, 30).map(key)

    @rule(
        k=keys, n=st.integers(0, 3000), value=st.integers(0, 255), tag=st.integers(0, 2**32 - 1), replace=st.booleans()
    )
    def put(self, k: bytes, n: int, value: int, tag: int, replace: bool) -> None:
        array = np.full(n, value, np.uint8)
        known = k in self.model
        kept = self.images.put(k, array, tag=tag, replace=replace)
        if kept and (replace or not known):
            self.model[k] = array.tobytes(), tag
        assert kept or self.images.taken > 2_500_000

    @rule(k=keys)
    def get(self, k: bytes) -> None:
        record = self.images.get(k)
        assert (record is None) == (k not in self.model)
        if record is not None:
            assert (record.array.tobytes(), record.tag) == self.model[k]

    @rule(k=keys)
    def note(self, k: bytes) -> None:
        known = self.images.noted(k)
        assert self.images.note(k) != known and self.images.noted(k)

    @rule()
    def die_and_recount(self) -> None:
        self.images._header.busy = 1

    @precondition(lambda self: self.model)
    @rule()
    def purge(self) -> None:
        assert self.images.purge(file=True) == sum(len(data) for data, _ in self.model.values())
        self.model.clear()

    @rule(fix=st.booleans())
    def check(self, fix: bool) -> None:
        assert self.images.check(fix) == []

    @invariant()
    def agrees(self) -> None:
        self.images.parts.locked(lambda: None)
        assert len(self.images) == len(self.model)
        assert self.images.info().nbytes == sum(len(data) for data, _ in self.model.values())
        assert self.images.taken - PAGE <= 3_000_000


class NamedModel(Model):
    "Do the same over a named file, which is also closed and opened again, and left by killed processes."

    def open(self) -> ImageStore:
        return ImageStore.open(os.path.join(self.folder.name, "cache"), "3MB")

    @rule()
    def reopen(self) -> None:
        del self.images
        self.images = self.open()

    @rule()
    def die_and_reopen(self) -> None:
        self.images._header.busy = 1
        self.reopen()

    @rule()
    def drop_from_memory(self) -> None:
        self.images.purge()

    @rule(k=Model.keys, at=st.integers(0, 3000), value=st.integers(1, 255))
    def rot(self, k: bytes, at: int, value: int) -> None:
        "Change a byte of the file while no process has it open: this record is dropped, and no other."
        if not self.model.get(k, (b"", 0))[0]:
            return
        offset = self.images._index.find(layout.digest_of(k))[0] + layout.BLOCK_BYTES  # type: ignore[index]
        offset += at % len(self.model[k][0])
        del self.images
        with open(os.path.join(self.folder.name, "cache"), "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ value]))
        self.images = self.open()
        assert k in self.images and self.images.get(k) is None and k not in self.images
        del self.model[k]


TestModel, TestNamedModel = Model.TestCase, NamedModel.TestCase


_settings = settings(stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestModel.settings = settings(_settings, max_examples=40)
TestNamedModel.settings = settings(_settings, max_examples=25)
