"""`Fill`: one run of `load_data`. Threads decode with Pillow; user code runs in this thread or in forked processes."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ..store import ImageStore, brief, format_rule, format_size, mean_bytes, shown, usable_cpus
from . import forks
from .cache import FULL, KEPT, LATER, NEVER, THERE, TOGETHER
from .info import ImageLoadError
from .jobs import Job, Work, expected_bytes, stores_of
from .messages import warn_user
from .progress import counted, print_line, progress
from .randomness import random_states

#: The calling thread first decodes this many images per list, to see whether reading or decoding takes longer, and
#: whether they can be kept at all.
SAMPLE = 8
#: If reading takes longer than decoding, threads mostly wait: start up to this many per CPU.
MOST_THREADS_PER_CPU = 8
#: The calling thread alone decodes images of fewer bytes: most of that is Python, for which threads only wait.
TINY = 1 << 14
#: This many small images at most are stored together. Where threads work, each has this many groups of them at least.
MOST_TOGETHER, GROUPS_PER_THREAD = 64, 8
#: Seconds between two updates of the progress bar.
BEAT = 0.1


def load_data(
    works: Sequence[Work],
    n_workers: Optional[int] = None,
    progress: bool = True,
    on_error: str = "raise",
    remedy: str = "",
) -> None:
    """Decode every image that is not in memory yet, or whose file has changed since.

    - `n_workers`: the number of threads (0: only the calling thread; None: one per usable CPU, more if a sample shows
      that reading takes longer than decoding). User code never runs in these threads, but in the calling thread or in
      `n_workers` forked processes.
    - `progress`: show a bar with bytes and images per second in a notebook or a terminal, and lines in a log
    - `on_error`: images that can't be decoded are listed in one `ImageLoadError` after all others are loaded; `'warn'`
      warns with the same text
    - `remedy`: the lines of code that leave these images out, which the error ends with

    If not all images will fit, it says so before the work and once after it. The states of random generators are
    restored. Images that were loaded before an interrupt stay. Records of earlier sessions in a `cache_file` are
    verified. Processes that load at the same time share the work. Raises ValueError for invalid arguments.
    """
    if on_error not in ("raise", "warn"):
        raise ValueError(f"on_error={brief(on_error)}: use 'raise' or 'warn'")
    if n_workers is not None and (isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 0):
        raise ValueError(f"n_workers={brief(n_workers)}: use None, 0 for the calling thread, or a number of workers")
    states = random_states()
    fill = Fill(works, n_workers, progress)
    try:
        # fastai's `open_image` saves and restores the warning filters, which threads must not do concurrently. Setting
        # them once around all of the work has the same effect for the caller.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            fill.run()
    finally:
        states.restore()
        for message in fill.messages:
            warn_user(message)
    fill.report(on_error, remedy)


class Fill:
    """One run of `load_data`.

    `messages`: warnings to show after the work. `refused`: for each store that is full, the work that found it so.
    """

    def __init__(self, works: Sequence[Work], n_workers: Optional[int], progress: bool) -> None:
        self.works, self.n_workers, self.progress = works, n_workers, progress
        self.errors: List[Tuple[Any, str]] = []
        self.messages: List[str] = []
        self.later: List[Job] = []
        self.outcomes: Dict[int, List[str]] = {id(work): [] for work in works}
        self.refused: Dict[str, Work] = {}
        self.done = self.decoded = self.left_out = self.never = 0
        self.stop = False

    def run(self) -> None:
        "Do all jobs and show progress."
        for work in self.works:
            work.begin(self.messages.append)
        jobs = list(self._jobs())
        if not jobs:
            return
        begun = time.monotonic()
        held = [(store, store.info().nbytes) for store in stores_of(self.works)]
        self._reserve(self._announce(jobs))
        shown = progress(len(jobs), "load_data", show=self.progress)

        def state() -> Tuple[int, str]:
            loaded = sum(store.info().nbytes - before for store, before in held)
            return min(self.done, len(jobs)), _state(self, loaded, time.monotonic() - begun)

        try:
            self._all(jobs, lambda: shown.update(*state()) if self.progress else None)
        finally:
            if self.progress:
                shown.close(*state())

    def _all(self, jobs: List[Job], beat: Callable[[], None]) -> None:
        # User code first: its processes have to be forked before our threads run.
        user_jobs = [job for job in jobs if job.work.user_code]
        if self.n_workers and forks.can_fork():
            self._forked(user_jobs, self.n_workers, beat)
        else:
            self._in_turn(([job] for job in user_jobs), beat)
        n_workers, rest = self._sample([job for job in jobs if not job.work.user_code])
        groups = _groups(rest, 1 + len(rest) // (GROUPS_PER_THREAD * max(1, n_workers)))
        if n_workers:
            self._parallel(groups, n_workers, beat)
        else:
            self._in_turn(groups, beat)
        # Images that other processes were decoding when their turn came: these have finished by now, or ended.
        later, self.later = self.later, []
        for job in later:
            self._do(job, wait=True)

    def _in_turn(self, groups: Iterable[List[Job]], beat: Callable[[], None]) -> None:
        when = time.monotonic()
        for group in groups:
            self._do_all(group)
            if time.monotonic() - when > BEAT:
                when = time.monotonic()
                beat()

    def _jobs(self) -> Iterator[Job]:
        "Yield each job that has to be done, once."
        seen: Set[Tuple[str, Tuple[bytes, ...]]] = set()
        for work in self.works:
            uid = work.store.uid
            for job in work.jobs():
                name = uid, job.keys
                if job.keys and name in seen:
                    continue
                seen.add(name)
                if work.missing(job):
                    yield job

    def _announce(self, jobs: List[Job]) -> List[Job]:
        "Print how many images are to be decoded and how much memory they may take; return the jobs for these."
        store, stores = jobs[0].work.store, {id(work): work.store for work in self.works}
        there = [bool(job.keys) and all(key in stores[id(job.work)] for key in job.keys) for job in jobs]
        if self.progress:
            _say_known([(job, stores[id(job.work)]) for job, known in zip(jobs, there) if known])
        jobs = [job for job, known in zip(jobs, there) if not known]
        if not jobs:
            return jobs
        need = expected_bytes(jobs)
        room = max(0, store.budget() - store.taken)
        most, n_images = format_size(room), counted(len(jobs), "images")
        if need is None:
            text = f"load_data: {n_images}, of unknown size until they are opened; {most} may be used"
        elif need <= room:
            text = f"load_data: {n_images}, about {format_size(need)} decoded; {most} may be used"
        else:
            text = (
                f"load_data: {n_images}, about {format_size(need)} decoded, but {most} may be used "
                f"(max_ram: {format_rule(store.rule)}): {_share(len(jobs), need, room)}"
            )
        if self.progress or (need is not None and need > room):
            print_line(text)
        return jobs

    def _reserve(self, jobs: List[Job]) -> None:
        "Make the indexes large enough for `jobs` at once."
        records: Counter[int] = Counter()
        for job in jobs:
            records[id(job.work)] += len(job.keys)
        needed: Counter[str] = Counter()
        stores = {id(work): work.store for work in self.works}  # looked up once per list: a list has many jobs
        for work, n in records.items():
            needed[stores[work].uid] += n
        for store in stores_of(self.works):
            if needed[store.uid]:
                store.reserve(needed[store.uid])

    def _sample(self, jobs: List[Job]) -> Tuple[int, List[Job]]:
        "Do the first jobs of each list; return how many threads to use, and the remaining jobs."
        counts: Dict[int, int] = {}
        rest: List[Job] = []
        wall, cpu = time.perf_counter(), time.thread_time()
        for job in jobs:
            counts[id(job.work)] = counts.get(id(job.work), 0) + 1
            if counts[id(job.work)] <= SAMPLE:
                self._do(job)
            else:
                rest.append(job)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        if self.n_workers is not None:
            return self.n_workers, rest
        cpus = usable_cpus()
        waiting = min(max(1.0, wall / max(cpu, 1e-9)), MOST_THREADS_PER_CPU)
        if waiting > 1.5:
            return min(len(rest), math.ceil(cpus * waiting)), rest
        tiny = {id(work): mean_bytes(work.store) < TINY for work in self.works}
        return 0 if all(tiny[id(job.work)] for job in rest) else min(len(rest), cpus), rest

    def _parallel(self, groups: Iterator[List[Job]], n_workers: int, beat: Callable[[], None]) -> None:
        lock = threading.Lock()
        finished = threading.Event()
        running = [n_workers]
        failure: List[BaseException] = []

        def work() -> None:
            try:
                # After an interrupt or another thread's failure, do nothing but count down: the caller may be waiting.
                while not self.stop:
                    with lock:
                        group = next(groups, None)
                    if group is None:
                        break
                    self._do_all(group)
            except BaseException as error:  # a bug or an interrupt; errors of images are collected
                failure.append(error)
                self.stop = True
            finally:
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
        finally:  # also after Ctrl-C at any moment: each thread finishes its current image
            self.stop = True  # before joining: a thread whose `start` was interrupted has no `ident` yet
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if failure:
            raise failure[0]

    def _forked(self, jobs: List[Job], n_workers: int, beat: Callable[[], None]) -> None:
        "Do `jobs` in forked processes, each of which is sent the number of its next job."

        def work(number: int) -> Tuple[str, Optional[str], List[str]]:
            job, messages = jobs[number], []  # type: Job, List[str]
            try:
                return job.work.do(job, False, messages.append), None, messages
            except Exception as fault:
                return NEVER, _reason(fault), messages

        waiting, current = iter(range(len(jobs))), {}

        def hand_out(child: forks.Child) -> None:
            current[child] = next((number for number in waiting if self._worthwhile(jobs[number])), None)
            if current[child] is not None:
                with suppress(OSError):  # the child has ended: `recv` will raise
                    child.connection.send(current[child])

        def hand_out_all(children: List[forks.Child]) -> None:
            with forks.forking():
                for _ in range(min(n_workers, len(jobs))):
                    forks.Child(work, children)
            for child in children:
                hand_out(child)
            while any(number is not None for number in current.values()):
                busy = {child.connection: child for child, number in current.items() if number is not None}
                for connection in wait(list(busy), BEAT):
                    child = busy[connection]  # type: ignore[index]
                    job = jobs[current[child]]  # type: ignore[index]
                    try:
                        outcome, error, messages = child.connection.recv()
                    except (EOFError, OSError):  # it was killed or has crashed; the others take over
                        self.errors.append((job.item, f"its process has ended: {_status(child.close())}"))
                        self.done, current[child] = self.done + 1, None
                        continue
                    self.messages += messages
                    if outcome == KEPT:  # which the child has noted in its own memory only
                        job.work.images.stale.discard(job.keys)
                    self._count(job, outcome, error)
                    hand_out(child)
                beat()
            for number in waiting:  # no child is left
                self._do(jobs[number])
            for child in children:
                child.close()

        forks.with_children(hand_out_all)  # after Ctrl-C, only the images being decoded are lost

    def _do_all(self, jobs: Sequence[Job]) -> None:
        "Do `jobs`, which belong to one work: together, then one by one those for which that fails."
        outcomes: Sequence[Optional[str]] = [None] * len(jobs)
        if len(jobs) > 1 and all(job.keys for job in jobs):
            jobs = [job for job in jobs if self._worthwhile(job)]
            with suppress(Exception):  # each of them raises it again
                outcomes = jobs[0].work.do_many(jobs) if jobs else ()
        for job, outcome in zip(jobs, outcomes):
            if outcome is None:
                self._do(job)
            else:
                self._count(job, outcome, None)

    def _do(self, job: Job, wait: bool = False) -> None:
        "Do `job`. If another process is doing it, postpone it, or with `wait` wait for that process."
        try:
            if self._worthwhile(job):
                self._count(job, job.work.do(job, wait, self.messages.append), None)
        except Exception as fault:
            self._count(job, NEVER, _reason(fault))

    def _worthwhile(self, job: Job) -> bool:
        "Return whether the image of `job` may fit, and images of its work can be kept."
        try:
            if self.refused and job.work.store.uid in self.refused and not self._might_fit(job):
                self.left_out += 1
            elif self.outcomes[id(job.work)] == [NEVER] * SAMPLE:  # a message says why; decoding the rest is useless
                self.never += 1
            else:
                return True
        except Exception as fault:
            self.errors.append((job.item, _reason(fault)))
        self.done += 1
        return False

    def _count(self, job: Job, outcome: str, error: Optional[str]) -> None:
        "Record the outcome of `job`."
        if outcome == LATER:
            self.later.append(job)
            return
        self.done += 1
        if error is not None:
            self.errors.append((job.item, error))
            return
        self.decoded += outcome != THERE
        self.never += outcome == NEVER
        outcomes = self.outcomes[id(job.work)]
        if len(outcomes) < SAMPLE and outcome != THERE:
            outcomes.append(outcome)
        if outcome == FULL:
            self.refused[job.work.store.uid] = job.work
            self.left_out += 1

    def _might_fit(self, job: Job) -> bool:
        "Return whether the image of `job` fits, by its header: after one was refused, smaller ones may still fit."
        nbytes = job.work.nbytes(job)
        return nbytes is not None and job.work.store.fits(nbytes)

    def report(self, on_error: str, remedy: str) -> None:
        "Warn of images that did not fit; raise an error, or warn, for those that could not be decoded."
        for uid, work in self.refused.items():
            work.say_full([other for other in self.works if other.store.uid == uid])
        if self.errors:
            error = ImageLoadError(self.errors, remedy)
            if on_error == "raise":
                raise error
            names = ", ".join(dict.fromkeys(work.name for work in self.works))
            warn_user(f"{names}: {error}")


def _say_known(jobs: Sequence[Tuple[Job, ImageStore]]) -> None:
    "Say of how many images their stores have records already, and why these have to be looked at."
    to_verify: Counter[str] = Counter()
    changed = 0
    for job, store in jobs:
        if store.cache_file is None or all(map(store.verified, job.keys)):
            changed += 1
        else:  # from an earlier session
            to_verify[store.cache_file] += 1
    for file, n in to_verify.items():
        print_line(f"load_data: {counted(n, 'images')} of {shown(file)} to verify")
    if changed:
        files = "its file has changed or is gone" if changed == 1 else "their files have changed or are gone"
        print_line(f"load_data: {counted(changed, 'images')} to load again, because {files}")


def _share(n: int, need: float, room: float) -> str:
    "Say how many of `n` images fit, if all `need` more than the `room` that there is."
    some, share = math.floor(n * room / need), math.floor(100 * room / need)
    if not some:
        return "probably none of them will fit, they stay on disk"
    return f"about {f'{share} %' if share else f'{some:,} of them'} will fit, the rest stays on disk"


def _state(fill: Fill, loaded: int, seconds: float) -> str:
    "Return what was done so far as text, without what is zero: `loaded` bytes in `seconds`."
    rate = fill.decoded / max(seconds, 1e-9)
    parts = (
        (loaded, format_size(loaded)),
        (rate, f"{rate:,.0f} images/s" if rate >= 9.5 else f"{rate:.2g} images/s"),
        (fill.left_out, f"{fill.left_out:,} did not fit"),
        (fill.never, f"{fill.never:,} can't be kept"),
        (len(fill.errors), f"{len(fill.errors):,} failed"),
    )
    return ", ".join(text for value, text in parts if value > 0)


def _groups(jobs: Sequence[Job], most: int) -> Iterator[List[Job]]:
    "Yield `jobs` in groups to be done together: several of one work, at most `most`, if its images are small."
    group: List[Job] = []
    size = 1
    for job in jobs:
        if group and (job.work is not group[0].work or len(group) >= size):
            yield group
            group = []
        if not group:
            size = min(most, MOST_TOGETHER, TOGETHER // max(1, mean_bytes(job.work.store)))
        group.append(job)
    if group:
        yield group


def _reason(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__


def _status(status: int) -> str:
    return f"signal {status & 127}" if status & 127 else f"exit status {status >> 8}"
