"""Faults that tests of the suite make already: see `from_tests`."""

from __future__ import annotations

from typing import Optional, Sequence

from .fault import Fault, either, from_tests

PROCESSES, DAMAGE, FILES, LISTS = (
    "tests/store/test_processes.py::",
    "tests/store/test_damage.py::",
    "tests/store/test_cachefile.py::",
    "tests/fastai1/test_faults.py::",
)
RECOVERY, MENDING, LOCK, ERRORS, PRIVATE, FULL, MOUNTS = (
    f"tests/store/test_{name}.py::"
    for name in ("recovery", "mending", "lock", "system_errors", "private", "fulldisk", "mounts")
)
LOADS = "tests/fastai1/test_interrupted_loads.py::"
DEATH, INTERRUPTS, BROKEN, ROOM, SHARED = (
    "Processes that are killed",
    "Ctrl-C",
    "Files that are broken or not ours",
    "Memory and disks that are full",
    "Many processes and changing files",
)


def by_tests(
    key: str, group: str, title: str, how: str, full: Sequence[str], *, times: int, each: int = 1,
    quick: Optional[Sequence[str]] = None, quick_times: int = 0, quick_each: int = 0,
) -> Fault:  # fmt: skip
    """Return a fault that tests make: `full` names them, `quick` those of the quick form, if these are not the same.

    A test of `full` that passes has made the fault `each` times, one of `quick` `quick_each` times.
    """
    run = from_tests(full, each)
    if quick is not None:
        run = either(run, from_tests(quick, quick_each or each), times)
    return Fault(key, group, title, how, run, times, quick_times)


FAULTS = [
    by_tests(
        "killed-writers", DEATH,
        "SIGKILL of a process that fills and purges a store",
        "at random moments, while others read; then every record is read",
        [PROCESSES + "test_a_killed_writer_leaves_no_lock_and_no_wrong_record[200]"],
        quick=[PROCESSES + "test_a_killed_writer_leaves_no_lock_and_no_wrong_record[25]"], each=200, quick_each=25,
        times=200, quick_times=25,
    ),
    by_tests(
        "killed-workers", DEATH,
        "SIGKILL of DataLoader workers that fill a list's store",
        "half of them at random lines, half at random moments, in memory and over a `cache_file`; each time the others "
        "read on, and items are compared with fastai's own",
        [LISTS + f"test_workers_may_be_killed_while_they_fill[{named}-200]" for named in (False, True)], quick=[],
        each=200, times=400, quick_times=0,
    ),
    by_tests(
        "killed-loads", DEATH,
        "SIGKILL of the main process in `load_data`",
        "at random moments; each time the `cache_file` is opened anew, checked, and compared with fastai's own items",
        [LISTS + "test_main_processes_may_be_killed_in_load_data[50]"], quick=[], each=50,
        times=50, quick_times=0,
    ),
    by_tests(
        "killed-training", DEATH,
        "SIGKILL of the main process in the middle of training",
        "its workers lose their parent; the `cache_file` is opened anew",
        [LISTS + "test_a_cache_file_is_usable_after_its_main_process_is_killed"],
        times=1, quick_times=1,
    ),
    by_tests(
        "killed-holder", DEATH,
        "SIGKILL of a process that holds the lock",
        "another process opens the file, reads all and writes; also a fork while another thread holds the lock",
        [DAMAGE + "test_a_killed_writer_does_not_keep_other_processes_out",
         PROCESSES + "test_a_fork_while_a_thread_holds_the_lock"],
        times=2, quick_times=2,
    ),
    by_tests(
        "killed-recovery", DEATH,
        "SIGKILL of a writer, and then of those who finish its work",
        "at every 31st line of a replacement, a new record, a refused one and a purge, in memory and in a file; nobody "
        "has to walk over the log",
        [RECOVERY + f"{name}[{kind}-{write}-{last}]"
         for name, last in (("test_a_write_killed_at_any_moment_is_undone_or_finished_without_a_walk", 31),
                            ("test_a_recovery_killed_at_any_moment_begins_again", 4))
         for kind in ("memfd", "named") for write in ("replace", "add", "refuse", "purge")], quick=[],
        times=360, quick_times=0,
    ),
    by_tests(
        "killed-segments", DEATH,
        "SIGKILL in a purge, an opening and a mending of a file of seven segments",
        "at every line of the purge, and at every 6th of the others: all old records or none; no whole record is lost",
        [MENDING + "test_a_purge_killed_at_any_line_leaves_all_records_or_none[False-1]",
         MENDING + "test_a_purge_killed_at_any_line_leaves_all_records_or_none[True-1]",
         MENDING + "test_an_opening_killed_at_any_line_loses_no_record[0-6]",
         MENDING + "test_an_opening_killed_at_any_line_loses_no_record[1-6]",
         MENDING + "test_an_emptied_file_that_is_opened_and_killed_stays_empty[6]"], quick=[],
        times=500, quick_times=0,
    ),
    by_tests(
        "dropped-locks", DEATH,
        "The lock file is opened and closed elsewhere in a writing process",
        "also forks, and a child that outlives a killed writer; three writers at once, forked and spawned: the mutex "
        "stays held, and no record is missing",
        [LOCK + "test_an_accident_does_not_drop_the_mutex",
         LOCK + "test_nothing_is_lost_while_writers_open_and_close_the_lock_file",
         LOCK + "test_a_child_that_outlives_a_killed_writer_does_not_keep_its_mutex"],
        quick=[LOCK + "test_an_accident_does_not_drop_the_mutex"],
        times=9, quick_times=6,
    ),
    by_tests(
        "stopped-holder", DEATH,
        "A process that holds the mutex is stopped, or hangs",
        "who waits says for which process, and whether it is stopped, and goes on waiting; so does the command, until "
        "Ctrl-C",
        [LOCK + "test_who_waits_says_for_which_process_and_goes_on_waiting",
         LOCK + "test_the_command_line_says_for_whom_it_waits_and_ends_with_ctrl_c"],
        quick=[LOCK + "test_who_waits_says_for_which_process_and_goes_on_waiting"],
        times=3, quick_times=2,
    ),
    by_tests(
        "interrupted-load", INTERRUPTS,
        "Ctrl-C at each line of `load_data` and of a list's `purge`",
        "each line for the first and for the last time that it runs, with and without workers (with an `open` of one's "
        "own, every 40th of these); then the list loads, reads and purges",
        [LOADS + f"test_an_interrupt_at_each_line[{call}-{n}-{kind}-lines]"
         for call in ("load_data", "purge") for kind in ("MemoryImageList", "Own") for n in (0, 2)], quick=[],
        times=4000, quick_times=0,
    ),
    by_tests(
        "interrupted-fit", INTERRUPTS,
        "Ctrl-C in `fit`",
        "a real signal in the fifth batch, with and without workers and a `cache_file`; then two epochs, compared with "
        "fastai's own",
        [LISTS + "test_ctrl_c_in_fit_leaves_a_usable_cache"],
        quick=[LISTS + "test_ctrl_c_in_fit_leaves_a_usable_cache[0-True]"],
        times=4, quick_times=1,
    ),
    by_tests(
        "damaged-files", BROKEN,
        "Random damage to a cache file",
        "bits flipped, bytes zeroed or replaced, numbers exchanged: in the header (also under a right checksum), the "
        "index, the records, or anywhere",
        [DAMAGE + f"test_damage_is_an_error_or_a_miss_and_never_a_wrong_pixel[{where}-60]"
                for where in ("header", "state", "index", "records", "anywhere")],
        quick=[DAMAGE + "test_damage_is_an_error_or_a_miss_and_never_a_wrong_pixel[state-60]"], each=60,
        times=300, quick_times=1,
    ),
    by_tests(
        "cut-files", BROKEN,
        "A cache file cut off at any length",
        "at every 8 kB: what is whole is served, and a warning says how much that is",
        [DAMAGE + "test_a_file_cut_off_anywhere_serves_what_is_whole"], each=60,
        times=60, quick_times=60,
    ),
    by_tests(
        "lying-files", BROKEN,
        "Records that lie about their length, shape and type under right checksums",
        "18 lies, each with and without a killed writer before",
        [DAMAGE + "test_block_headers_that_lie_under_a_right_checksum"], each=36,
        times=36, quick_times=36,
    ),
    by_tests(
        "flipped-header", BROKEN,
        "One flipped bit in the header of a cache file",
        "300 bits of it; at most the records of one segment are lost, and a warning says so",
        [MENDING + "test_one_flipped_bit_of_the_header_loses_no_record[300]"], quick=[], each=300,
        times=300, quick_times=0,
    ),
    by_tests(
        "poor-process", BROKEN,
        "Mending with few descriptors or little address space",
        "13 limits on descriptors, 8 on address space, a disk that can't be read: no record is dropped",
        [MENDING + "test_few_descriptors_lose_no_record",
         MENDING + "test_little_address_space_loses_no_record",
         MENDING + "test_a_disk_that_cannot_be_read_drops_nothing"],
        quick=[MENDING + "test_few_descriptors_lose_no_record"],
        times=10, quick_times=1,
    ),
    by_tests(
        "system-errors", BROKEN,
        "Any call of the system fails while a file is opened",
        "each call of each function in turn, with EMFILE, ENODEV, ENOLCK, ENOSPC and others: a CacheFileError with "
        "what to do, or it is opened all the same; no descriptor stays open, and the file is unharmed",
        [ERRORS + "test_every_call_of_the_system_may_fail"], quick=[],
        times=340, quick_times=0,
    ),
    by_tests(
        "planted-files", BROKEN,
        "A cache file or its lock is a link, or belongs to somebody else",
        "planted before, or put in its place while it is opened: refused, with the reason",
        [PRIVATE + "test_a_file_of_another_user_is_refused", PRIVATE + "test_what_somebody_else_planted_is_refused",
         PRIVATE + "test_a_link_is_not_followed", PRIVATE + "test_a_file_that_others_could_write_to_is_refused",
         PRIVATE + "test_what_takes_the_place_of_the_file_between_look_and_open_is_looked_at_again"],
        quick=[PRIVATE + "test_a_link_is_not_followed"],
        times=27, quick_times=10,
    ),
    by_tests(
        "other-files", BROKEN,
        "Something else where the cache file should be",
        "a folder, a picture, a pipe, a socket, zeros, other versions, byte orders and page sizes: refused, named, and "
        "left as it is",
        [FILES + "test_a_file_that_cannot_be_used_is_named_and_left"],
        times=11, quick_times=11,
    ),
    by_tests(
        "full-disk", ROOM,
        "A disk that is full",
        "a file system of 3 MB for 7 MB of images, then one with no room at all: one warning, and images that do not "
        "fit come from their files",
        [LISTS + "test_training_goes_on_if_the_disk_of_the_cache_file_is_full",
         FILES + "test_a_disk_with_no_room_at_all"],
        quick=[FILES + "test_a_disk_with_no_room_at_all"],
        times=3, quick_times=1,
    ),
    by_tests(
        "full-btrfs", ROOM,
        "A disk that is full and writes copies of pages",
        "a real btrfs in a file: hits, puts, notes, counting and opening go on; so do they on any disk that is full "
        "from the n-th write of a call on, for every n",
        [FULL + "test_a_full_disk_that_writes_copies_of_pages", FULL + "test_a_disk_that_is_full_from_any_write_on"],
        quick=[FULL + "test_a_full_disk_that_writes_copies_of_pages"],
        times=13, quick_times=2,
    ),
    by_tests(
        "held-views", ROOM,
        "A purge while views are held, on a tmpfs that others fill up",
        "a real tmpfs: no SIGBUS",
        [FULL + "test_views_of_a_file_in_memory_while_others_purge_it_and_fill_the_disk"],
        times=1, quick_times=1,
    ),
    by_tests(
        "file-in-memory", ROOM,
        "A `cache_file` on a tmpfs, or on a container's layer over one, in a container with too little memory",
        "a real cgroup of 300 MB, one and two processes: filling stops, nobody is killed",
        [MOUNTS + "test_a_cache_file_in_memory_is_never_the_end_of_a_process"], quick=[],
        times=6, quick_times=0,
    ),
    by_tests(
        "cgroup", ROOM,
        "A container with too little memory",
        "a real cgroup of 2 GB for 1.1 GB of images beside another process that takes more and more: filling stops, "
        "nobody is killed",
        [LISTS + "test_filling_stops_below_a_real_cgroup_limit"], quick=[],
        times=2, quick_times=0,
    ),
    by_tests(
        "rlimits", ROOM,
        "Limits on address space and file sizes",
        "`ulimit -v` and `ulimit -f` below what the images need, in memory and over a `cache_file`",
        [LISTS + "test_under_ulimit_v_and_f_training_goes_on"], quick=[], each=4,
        times=4, quick_times=0,
    ),
    by_tests(
        "eaten", ROOM,
        "Other processes take the memory while a list is filled",
        "what the machine can give is simulated, and falls with each image",
        [LISTS + "test_filling_stops_when_other_processes_take_the_memory"],
        times=1, quick_times=1,
    ),
    by_tests(
        "created-at-once", SHARED,
        "Six processes create one cache file at the same moment",
        "five times; all write and read",
        [FILES + "test_processes_that_create_one_file_at_once_share_it"], each=5,
        times=5, quick_times=5,
    ),
    by_tests(
        "lost-lock", SHARED,
        "The lock file is deleted while the cache is in use",
        "newcomers are refused, those who have it go on",
        [FILES + "test_a_lock_file_that_is_deleted_keeps_newcomers_out"],
        times=1, quick_times=1,
    ),
    by_tests(
        "changed-sources", SHARED,
        "Images are deleted, replaced or truncated during training",
        "cached ones stay the same until `load_data`, which decodes changed files again and lists bad ones",
        [LISTS + "test_changed_sources_are_noticed_by_load_data"], quick=[],
        times=6, quick_times=0,
    ),
]  # fmt: skip
