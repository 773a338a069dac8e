"""Faults made on purpose, many times, and the page that tells what came of them: docs/reliability.md.

    make test-faults                                        # all, under fifteen minutes; makes the page
    make test-faults FAULTS=--quick                         # each a few times, in some minutes; the page stays
    PYTHONPATH=tests python -m faults --only storm --seed 3 # one line of the page, from another seed
    PYTHONPATH=tests python -m faults --list

The exit status is 1 if anything came of a fault that must not: wrong pixels, hangs, crashes, exceptions that are not
documented, failed checks. The culprit is printed with its seed.

- `fault`: what a fault is, what may come of it, how it is run many times; `table`: all faults; `page`: the page
- `storm`: the driver of the storm; `actors`, `board`, `derived`: what its processes do, count, and read
- `at_lines`: kills and interrupts at each line of the store's code; `longrun`: hundreds of epochs
- `by_tests`: faults that tests of the suite make already

To add a fault, write an entry into FAULTS of one of these modules, or of a new one that `table` names. What makes it is
one of these, the first that fits:

1. A test that exists: `from_tests(["tests/store/test_x.py::test_y"], each=200)`. `each` says how often the test makes
   the fault, or the test itself does: `record_property("times", n)`; properties named as in GOOD say what came of it.
2. A function that makes it once, in an empty folder, with all that is random drawn from `draw`:

       def once(draw: random.Random, folder: Path) -> Dict[str, int]:
           store = filled(folder / "cache")
           ...                                              # make the fault
           return {"right" if right(store) == 60 else "fewer": 1}

       Fault("my-fault", "Its heading", "What happens", "how it is made", repeated(once), times=200, quick=5)

   Each time is a process of its own, so it may raise, crash or hang: that is counted, and the culprit is named.
3. A task that is struck at each of its lines: a `Task` in `at_lines.TASKS`.
4. A function `run(times, seed) -> Outcome` of your own.
"""
