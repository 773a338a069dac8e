"""Filling, counting and emptying: what `load_data`, `cache_info`, `loaded` and `purge` do with in-memory lists."""

from __future__ import annotations

import math
import sys
import threading
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import wait
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import PIL.Image

from ..store import system
from ..store.budget import format_size
from . import forks
from .decode import Stock, random_states, restore_states
from .progress import progress, say

if TYPE_CHECKING:
    from ..fastai1.lists import InMemory

# How many headers are read to say what a dataset will need.
HEADERS = 64
# How many images of a list are decoded by the calling thread first, to see whether reading or decoding dominates, and
# whether they can be kept at all.
SAMPLE = 8
# Where reading dominates, threads wait: up to this many a CPU.
MOST_THREADS_A_CPU = 8
# How often the bar moves, in seconds.
BEAT = 0.1


def warn_user(message: str) -> None:
    "Warn at the line of the user's own code that led here, past ours and fastai's."
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("memlist", "fastai"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def named(il: Any) -> str:
    "How a warning names a list: by its class, and the path that tells it from others of that class."
    return f"{type(il).__name__} over {il.path}"


class CacheInfo(NamedTuple):
    """`cached` of `total` distinct images that the object would open are in memory; the store, shared with every list
    over the same path, holds `nbytes` of at most `max_ram`, and has served `hits` and `misses` in all processes.

    Printed, it is three lines for people; a notebook shows it as a small table. Its `repr` is a named tuple's.
    """

    cached: int
    total: int
    nbytes: int
    max_ram: int
    hits: int
    misses: int

    def _said(self) -> List[Tuple[str, str, float]]:
        "What there is to say: a name, a text, and the share in [0, 1] that it speaks of."
        size, most = format_size(self.nbytes), format_size(self.max_ram)
        reads = self.hits + self.misses
        pairs = list(zip(self[::2], (self.total, self.max_ram, reads)))
        shares = [part / whole if whole else 0.0 for part, whole in pairs]
        # Rounded down: what is not quite there is not 100 %.
        cached, _, hits = (f"{100 * part // max(whole, 1)} %" for part, whole in pairs)
        images = f"{self.cached:,} of {self.total:,} cached ({cached})" if self.total else "none to open"
        served = f"{self.hits:,} hit{'s' * (self.hits != 1)} ({hits}), {self.misses:,} miss{'es' * (self.misses != 1)}"
        served = served if reads else "none so far"
        texts = images, f"{size} of at most {most}", served
        return list(zip(("images", "store", "reads"), texts, shares))

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text, _ in self._said())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self) if len(printer.stack) < 2 else repr(self))  # inside another object: as tuples are

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td><progress value='{share:.4f}' max='1'></progress></td>"
            f"<td style='text-align:left'>{text}</td></tr>"
            for name, text, share in self._said()
        )
        return f"<table>{rows}</table>"


class ImageLoadError(Exception):
    "Images that `load_data` could not decode; all the others are loaded. `errors`: pairs of item and reason."

    def __init__(self, errors: Sequence[Tuple[Any, str]]) -> None:
        self.errors = list(errors)
        lines = "\n".join(f"  {item}: {reason}" for item, reason in self.errors)
        n = len(self.errors)
        super().__init__(f"{n} image{'s' * (n != 1)} could not be loaded:\n{lines}")

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.errors,)


# What became of an image that was to be kept: it is, it never can be, there is no room, another process is at it, or it
# was there.
KEPT, NEVER, FULL, LATER, THERE = "kept", "never", "full", "later", "there"


class Job(NamedTuple):
    "One image to decode: through the list's decoder, or where `get` is the user's own, through `get(i)`."

    il: InMemory
    item: Any
    i: int
    keys: Tuple[bytes, ...]


def load_data(
    lists: Sequence[InMemory], n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise"
) -> None:
    """Decode into memory every image of `lists` that is not there, or whose file has changed since.

    `n_workers` threads decode (0: the calling thread; None: one a usable CPU, more where a sample shows that reading
    and not decoding takes the time). An `open` or `get` of your own is never called by threads: the calling thread
    calls it, or `n_workers` forked processes. With `progress` a bar shows GB and images per second in a notebook or a
    terminal, and a line every few seconds does in a log. Images that can't be decoded are listed in one
    `ImageLoadError` after all others are loaded; `on_error='warn'` warns with the same text.
    What does not fit is said before the work starts and, once, after it. Random generators are left as they were.
    Interrupted, it keeps what it has loaded. Of a `cache_file`, what an earlier session left there is looked at, and
    processes that load at the same time share the work.
    """
    if on_error not in ("raise", "warn"):
        raise ValueError(f"on_error={on_error!r}: use 'raise' or 'warn'")
    if n_workers is not None and (isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 0):
        raise ValueError(f"n_workers={n_workers!r}: use None, 0 for the calling thread, or a number of workers")
    states = random_states()
    for il in lists:
        il.hold_back()
    try:
        # fastai's `open_image` saves and restores the warning filters, which threads do in each other's way; once
        # around them all is the same to the caller.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            fill = Fill(lists, n_workers, progress)
            fill.run()
    finally:
        restore_states(states)
        for il in lists:
            il.speak()
    fill.report(on_error)


class Fill:
    "One run of `load_data`."

    def __init__(self, lists: Sequence[InMemory], n_workers: Optional[int], progress: bool) -> None:
        self.lists, self.n_workers, self.progress = lists, n_workers, progress
        self.errors: List[Tuple[Any, str]] = []
        self.later: List[Job] = []
        self.outcomes: Dict[int, List[str]] = {id(il): [] for il in lists}
        self.refused: Dict[str, InMemory] = {}
        self.done = self.decoded = self.left_out = self.never = 0
        self.stop = False

    def run(self) -> None:
        jobs = list(self._jobs())
        if not jobs:
            return
        begun = time.monotonic()
        held = [(il.store, il.store.info().nbytes) for il in one_a_store(self.lists)]
        self._announce(jobs)
        shown = progress(len(jobs), "load_data", show=self.progress)

        def state() -> Tuple[int, str]:
            loaded = sum(store.info().nbytes - before for store, before in held)
            rate = self.decoded / max(time.monotonic() - begun, 1e-9)
            text = f"{loaded / 1e9:.2f} GB, {rate:.0f} images/s"
            text += f", {self.left_out:,} did not fit" if self.left_out else ""
            text += f", {self.never:,} can't be kept" if self.never else ""
            text += f", {len(self.errors):,} failed" if self.errors else ""
            return min(self.done, len(jobs)), text

        try:
            self._all(jobs, lambda: shown.update(*state()) if self.progress else None)
        finally:
            if self.progress:
                shown.close(*state())

    def _all(self, jobs: List[Job], beat: Callable[[], None]) -> None:
        # A user's code first: no thread of ours is there yet when processes are forked for it.
        theirs = [job for job in jobs if job.il.runs_code()]
        if self.n_workers and forks.can_fork():
            self._forked(theirs, self.n_workers, beat)
        else:
            self._one_by_one(theirs, beat)
        n_workers, rest = self._sample([job for job in jobs if not job.il.runs_code()])
        if n_workers:
            self._parallel(rest, n_workers, beat)
        else:
            self._one_by_one(rest, beat)
        # What other processes were at, when we came to it: they are done with it, or gone.
        later, self.later = self.later, []
        for job in later:
            self._do(job, wait=True)

    def _one_by_one(self, jobs: Sequence[Job], beat: Callable[[], None]) -> None:
        when = time.monotonic()
        for job in jobs:
            self._do(job)
            if time.monotonic() - when > BEAT:
                when = time.monotonic()
                beat()

    def _jobs(self) -> Iterator[Job]:
        seen: Set[Tuple[str, Tuple[bytes, ...]]] = set()
        for il in self.lists:
            store = il.store
            for job in il.jobs(filling=True):
                if job.keys:
                    if (store.uid, job.keys) in seen:
                        continue
                    seen.add((store.uid, job.keys))
                if not job.keys or not all(store.verified(key) for key in job.keys) or il.changed(job):
                    yield job

    def _announce(self, jobs: List[Job]) -> None:
        store = jobs[0].il.store
        there = [bool(job.keys) and all(key in job.il.store for key in job.keys) for job in jobs]
        if any(there) and self.progress:  # in a cache file, from an earlier session
            say(f"load_data: {sum(there):,} images of {store.cache_file} to be looked at")
        jobs = [job for job, known in zip(jobs, there) if not known]
        if not jobs:
            return
        need = expected_bytes(jobs)
        room = max(0, store.budget() - store.taken)
        most = format_size(room)
        if need is None:
            text = f"load_data: {len(jobs):,} images, of a size that only opening them tells; {most} may be used"
        elif need <= room:
            text = f"load_data: {len(jobs):,} images, about {format_size(need)} decoded; {most} may be used"
        else:
            text = (
                f"load_data: {len(jobs):,} images, about {format_size(need)} decoded, but {most} may be used "
                f"(max_ram={store.rule!r}): about {math.floor(100 * room / need)} % will fit, the rest stays on disk"
            )
        if self.progress or (need is not None and need > room):
            say(text)

    def _sample(self, jobs: List[Job]) -> Tuple[int, List[Job]]:
        "Do the first jobs of each list; how many threads that speaks for, and the jobs that are left."
        counts: Dict[int, int] = {}
        rest: List[Job] = []
        wall, cpu = time.perf_counter(), time.thread_time()
        for job in jobs:
            counts[id(job.il)] = counts.get(id(job.il), 0) + 1
            if counts[id(job.il)] <= SAMPLE:
                self._do(job)
            else:
                rest.append(job)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        if self.n_workers is not None:
            return self.n_workers, rest
        cpus = system.usable_cpus()
        waiting = min(max(1.0, wall / max(cpu, 1e-9)), MOST_THREADS_A_CPU)
        return min(len(rest), math.ceil(cpus * waiting if waiting > 1.5 else cpus)), rest

    def _parallel(self, jobs: List[Job], n_workers: int, beat: Callable[[], None]) -> None:
        queue, lock = iter(jobs), threading.Lock()
        finished = threading.Event()
        running = [n_workers]
        failure: List[BaseException] = []

        def work() -> None:
            try:
                # Where the start was interrupted, or another thread has failed already, there is nothing to do but to
                # be counted as done, which somebody may wait for.
                for il in () if self.stop else self.lists:
                    il.hold_back()
                while not self.stop:
                    with lock:
                        job = next(queue, None)
                    if job is None:
                        break
                    self._do(job)
            except BaseException as error:  # ours, not an image's: those are collected
                failure.append(error)
                self.stop = True
            finally:
                for il in self.lists:
                    il._scratch.now.filling = False
                with lock:
                    running[0] -= 1
                    if not running[0]:
                        finished.set()

        threads = [threading.Thread(target=work, name=f"memlist-{i}", daemon=True) for i in range(n_workers)]
        try:
            for thread in threads:
                thread.start()
            while not finished.wait(BEAT):
                beat()
        finally:  # after Ctrl-C too, wherever it strikes: each thread finishes the image it is at
            self.stop = True  # first, for a thread whose `start` was interrupted: it has no `ident` yet
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if failure:
            raise failure[0]

    def _forked(self, jobs: List[Job], n_workers: int, beat: Callable[[], None]) -> None:
        "Have `jobs` done by forked processes, each of which is sent the number of its next one."

        def work(number: int) -> Tuple[str, Any, List[str]]:
            job = jobs[number]
            try:
                outcome, error = self._work(job, wait=False), None
            except Exception as fault:
                outcome, error = NEVER, _reason(fault)
            said, job.il._scratch.held_back = job.il._scratch.held_back, []
            return outcome, error, said

        waiting, at = iter(range(len(jobs))), {}
        children: List[forks.Child] = []

        def hand_out(child: forks.Child) -> None:
            at[child] = next((number for number in waiting if self._wanted(jobs[number])), None)
            if at[child] is not None:
                with suppress(OSError):  # of one that has ended, `recv` tells
                    child.connection.send(at[child])

        try:
            with forks.forking():
                for _ in range(min(n_workers, len(jobs))):
                    forks.Child(work, children)
            for child in children:
                hand_out(child)
            while any(number is not None for number in at.values()):
                busy = {child.connection: child for child, number in at.items() if number is not None}
                for connection in wait(list(busy), BEAT):
                    child = busy[connection]  # type: ignore[index]
                    job = jobs[at[child]]  # type: ignore[index]
                    try:
                        outcome, error, said = child.connection.recv()
                    except (EOFError, OSError):  # killed, or it has crashed; the others do its share
                        self.errors.append((job.item, f"its process has ended: {_status(child.close())}"))
                        self.done, at[child] = self.done + 1, None
                        continue
                    job.il._scratch.held_back += said
                    self._count(job, outcome, error)
                    hand_out(child)
                beat()
            for number in waiting:  # nobody is left
                self._do(jobs[number])
            for child in children:
                child.close()
        finally:  # after Ctrl-C: what they are at is lost, and nothing else
            forks.end(children)

    def _do(self, job: Job, wait: bool = False) -> None:
        "Decode the image of `job`, unless it is there by now; postpone it where another process is at it."
        try:
            if self._wanted(job):
                self._count(job, self._work(job, wait), None)
        except Exception as fault:
            self._count(job, NEVER, _reason(fault))

    def _wanted(self, job: Job) -> bool:
        "Return whether `job` is worth doing: its image may fit, and images of its list can be kept."
        try:
            if job.il.store.uid in self.refused and not self._might_fit(job):
                self.left_out += 1
            elif self.outcomes[id(job.il)] == [NEVER] * SAMPLE:  # it was said; the rest would be decoded for nothing
                self.never += 1
            else:
                return True
        except Exception as fault:
            self.errors.append((job.item, _reason(fault)))
        self.done += 1
        return False

    def _work(self, job: Job, wait: bool) -> str:
        "Decode the image of `job`, unless it is there by now: KEPT, NEVER, FULL, or LATER where it is left to others."
        if not job.keys:
            return job.il.fill(job)
        store = job.il.store
        with store.claimed(job.keys[0], wait) as mine:
            if not mine and not wait:
                return LATER
            if not all(store.holds(key) for key in job.keys) or job.il.changed(job):
                return job.il.fill(job)
        return THERE

    def _count(self, job: Job, outcome: str, error: Optional[str]) -> None:
        "Take down what became of `job`."
        if outcome == LATER:
            self.later.append(job)
            return
        self.done += 1
        if error is not None:
            self.errors.append((job.item, error))
            return
        self.decoded += outcome != THERE
        self.never += outcome == NEVER
        outcomes = self.outcomes[id(job.il)]
        if len(outcomes) < SAMPLE and outcome != THERE:
            outcomes.append(outcome)
        if outcome == FULL:
            self.refused[job.il.store.uid] = job.il
            self.left_out += 1

    def _might_fit(self, job: Job) -> bool:
        "Once an image was refused, look at a header before decoding: smaller ones may still fit."
        nbytes = header_bytes(job)
        return nbytes is not None and job.il.store.fits(nbytes)

    def report(self, on_error: str) -> None:
        for uid, il in self.refused.items():
            il.say_full([other for other in self.lists if other.store.uid == uid])
        if self.errors:
            error = ImageLoadError(self.errors)
            if on_error == "raise":
                raise error
            lists = ", ".join(dict.fromkeys(map(named, self.lists)))
            warn_user(f"{lists}: {error}\nThe others are loaded. Please repair, replace or leave out what is listed.")


def _reason(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__


def _status(status: int) -> str:
    return f"signal {status & 127}" if status & 127 else f"exit status {status >> 8}"


def header_bytes(job: Job) -> Optional[int]:
    """Bytes that an image of fastai's own decoding will take, from its header alone; None for other decodings.

    Raises what opening the file raises.
    """
    decoder = job.il._decodes()
    if not isinstance(decoder, Stock):
        return None
    with PIL.Image.open(job.item) as image:
        return decoder.nbytes(*image.size)


def expected_bytes(jobs: Sequence[Job]) -> Optional[int]:
    "What `jobs` will take, from an even sample of headers; None where no header tells."
    step = max(1, len(jobs) // HEADERS)
    found: List[Optional[int]] = []
    for job in jobs[::step]:
        with suppress(Exception):  # will be met again, and listed, when it is decoded
            found.append(header_bytes(job))
    sizes = [size for size in found if size is not None]
    return round(sum(sizes) / len(sizes) * len(jobs)) if sizes else None


def one_a_store(lists: Sequence[InMemory]) -> List[InMemory]:
    "The first list of each store."
    found: Dict[str, InMemory] = {}
    for il in lists:
        found.setdefault(il.store.uid, il)
    return list(found.values())


def purge(lists: Sequence[InMemory], file: bool = False) -> int:
    "Empty the stores of `lists`, see `ImageStore.purge`, and what is known of a user's code; the bytes freed."
    freed = sum(il.store.purge(file) for il in one_a_store(lists))
    for il in lists:
        if il.notes() is not il.store:
            il.notes().purge()
    return freed


def cache_info(lists: Sequence[InMemory]) -> CacheInfo:
    """Count the distinct images of `lists`; some microseconds per image. Other numbers are the stores', summed.

    Stores that may take a share of the available memory share one room: it counts once.
    """
    there = list(distinct(lists))
    stores = [il.store for il in one_a_store(lists)]
    infos = [store.info() for store in stores]
    _, nbytes, most, hits, misses = (sum(column) for column in zip((0,) * 5, *infos))
    rooms = [
        info.max_ram - info.nbytes
        for store, info in zip(stores, infos)
        if store.cache_file is None and not isinstance(store.rule, int)
    ]
    return CacheInfo(sum(there), len(there), nbytes, most - sum(rooms) + max(rooms, default=0), hits, misses)


def is_loaded(lists: Sequence[InMemory]) -> bool:
    "Whether every image of `lists` is cached; True for lists that open none."
    return all(distinct(lists))


def distinct(lists: Sequence[InMemory]) -> Iterator[bool]:
    "For each distinct image of `lists`, whether it is cached."
    seen: Set[Tuple[str, Tuple[bytes, ...]]] = set()
    for il in lists:
        store = il.store
        for job in il.jobs():
            if not job.keys:
                yield False
            elif (store.uid, job.keys) not in seen:
                seen.add((store.uid, job.keys))
                yield all(key in store for key in job.keys)
