"""List the numbers and comparisons of the pages that nobody measured, with the reason that each of them has."""

# ruff: noqa: RUF001  (the pages write × for times)
from __future__ import annotations

from claims_found import Constant

_DEFAULT = "a default in the code"
_FORMAT = "the format of the store"
_ARITHMETIC = "arithmetic: width, height, channels, bytes per value"
_JOB = "the job that is measured, not its result"
_BOUND = "a bound that the tests keep"
_LOGIC = "holds whatever is measured"
_ESTIMATE = "an estimate for whoever starts the script"
_LINK = "says what another page shows"

CONSTANTS = (
    # What memlist is set to do.
    Constant("{} % of the memory that is available", _DEFAULT),
    Constant("after five seconds they name", _DEFAULT),
    Constant("After five seconds they name", _DEFAULT),
    Constant("a quarter of a second or 32 MB", _DEFAULT),
    Constant("from 1 MB up to 64 MB or a sixteenth of its size", _DEFAULT),
    Constant("decoded: 5 % at most", "the definition of warm in the code"),
    Constant("A store of 64 GB", "an example"),
    Constant("has 64 MB in a container", "Docker's default"),
    Constant("These four are opened twice more", "what the code does"),
    Constant("Drawing twice", "what the code does"),
    Constant("Take twice the size", "advice"),
    # Bytes.
    Constant("float32: four bytes per channel", _ARITHMETIC),
    Constant("floats, four bytes per channel", _ARITHMETIC),
    Constant("Other floats take four bytes per value", _ARITHMETIC),
    Constant("keeps a third of the bytes", _ARITHMETIC),
    Constant("width x height x 3 bytes, which is 562 kB", _ARITHMETIC),
    Constant("562 kB instead of 100 kB at 500×375", _ARITHMETIC),
    Constant("100 kB become 562 kB", _ARITHMETIC),
    Constant("100 kB as a JPEG and 562 kB decoded", _ARITHMETIC),
    Constant("reads 500 MB/s delivers no more than 900 of them per second", _ARITHMETIC),
    Constant("are five times the bytes of the JPEGs", _ARITHMETIC),
    Constant("A batch of 39 MB", _ARITHMETIC),
    Constant("float image has 2.25 MB", _ARITHMETIC),
    Constant("a clone of 2.25 MB", _ARITHMETIC),
    Constant("a quarter of the bytes of 500x375", _ARITHMETIC),
    Constant("head of 80 bytes", _FORMAT),
    Constant("header of 80 bytes", _FORMAT),
    Constant("in eight bytes per record", _FORMAT),
    Constant("four fifths full", _FORMAT),
    Constant("the first table, 8 kB together", _FORMAT),
    Constant("about 100 bytes more per image", "what the store adds for mode and info; EXIF and palette come on top"),
    # Promises that tests keep, whatever a benchmark says.
    Constant("at most 128 bytes per image", _BOUND),
    Constant("takes up to 128 bytes per image", _BOUND),
    Constant("at least 99.9 % are within 1e-3", _BOUND),
    Constant("The bound is 99.9 % and 1e-5", _BOUND),
    Constant("it can be twice as much", _BOUND),
    Constant("equal to about a thousandth", _BOUND),
    # How the benchmarks are made.
    Constant("photographs of 100 kB", _JOB),
    Constant("files have 50, 100 or 200 kB on average", _JOB),
    Constant("file of 2 GB", _JOB),
    Constant("`cache_file` of 2 GB", _JOB),
    Constant("arrays of 65 MB", _JOB),
    Constant("thresholds, which otherwise grow, are fixed at 128 kB", _JOB),
    Constant("counts a fifth in each", "the definition of PSS"),
    Constant("After five seconds of them no further one is begun, so the slowest systems have one", _JOB),
    Constant("The target applies twice", _JOB),
    Constant("the target is 2 %", "a target"),
    Constant("in about {} minutes", _ESTIMATE),
    Constant("Each takes less than two minutes", _ESTIMATE),
    # Comparisons of which no figure can say the opposite.
    Constant("memlist can be faster in one place only", _LOGIC),
    Constant("a faster one helps stock more", _LOGIC),
    Constant("where the loader is the slower of the two", _LOGIC),
    Constant("with a slow disk they would be slower", _LOGIC),
    Constant("A faster disk", _LOGIC),
    Constant("no disk is faster than that", _LOGIC),
    Constant("so that other work on the machine slows both", _LOGIC),
    Constant("figures in which the best of the others, fastai included, is better", _LOGIC),
    Constant("Where memlist is slower", "a heading over computed tables"),
    Constant("Where it is slower", _LINK),
    Constant("How much faster", _LINK),
    Constant("It is no faster", "a question that people ask"),
    # Inside of a condition of the template.
    Constant("is slower with workers than without", "shown only where the figures say so"),
    Constant("Faster than all others", "shown only where the figures say so"),
    Constant("Slower than the best of the others", "shown only where the figures say so"),
    Constant("Faster than memlist", "shown only where the figures say so"),
    Constant("$long_best workers are the fastest", "computed"),
    Constant("two threads copy faster", "shown only where the target was missed"),
    # Downloads: the sizes of the files that pip names for the constraints.
    Constant("It downloads 0.4 GB, or 3.2 GB with CUDA", "what examples/demo_setup.py announces"),
    Constant("takes about three minutes after that", _ESTIMATE),
    Constant("3.2 GB to download, 6 GB on disk", "the sizes of the files that pip names, and of the environment"),
    Constant("in 20 to 30 minutes on two cores", _ESTIMATE),
    Constant("which downloads 3.3 GB", "the sizes of the files that pip names for both constraints"),
)
