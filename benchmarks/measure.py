"""Measure: contenders in turn, medians, proportional memory, cases in processes of their own."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import numpy as np

HERE = Path(__file__).resolve().parent


def interleave(contenders: Dict[str, Callable[[int], float]], rounds: int, warm_up: int = 1) -> Dict[str, List[float]]:
    """Let each contender run once per round, in an order that rotates, and collect what they return.

    A contender is given the number of the round and returns its own time, so that what it prepares is not counted.
    The first `warm_up` rounds are thrown away. Garbage is collected before each run.
    """
    samples: Dict[str, List[float]] = {name: [] for name in contenders}
    names = list(contenders)
    gc.collect()
    gc.freeze()  # exclude what exists already: collecting the rest is quick
    for k in range(-warm_up, rounds):
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            gc.collect()
            seconds = contenders[name](k)
            if k >= 0:
                samples[name].append(seconds)
    gc.unfreeze()
    return samples


def exhaust(loader: Iterable[Any]) -> float:
    "Return the seconds that one pass over `loader` takes."
    begun = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begun


def case(name: str, samples: Dict[str, List[float]], ratios: List[Dict[str, Any]], **facts: Any) -> Dict[str, Any]:
    "Return a line of a table of times: seconds per image of every contender, and the `ratios` to take of them."
    return {"name": name, "samples": samples, "ratios": ratios, **facts}


def ratio(what: str, above: str, below: str, bound: Optional[Sequence[Any]] = None) -> Dict[str, Any]:
    "Return the order to divide the time of `above` by that of `below`; `bound` is `('<=', 1.3)` or `('>=', 1)`."
    return {"what": what, "above": above, "below": below, "bound": bound}


def value(name: str, number: float, unit: str, bound: Optional[Sequence[Any]] = None, **facts: Any) -> Dict[str, Any]:
    "Return a line of a table of numbers that are not times."
    return {"name": name, "value": number, "unit": unit, "bound": bound, **facts}


def spread(values: Sequence[float]) -> List[float]:
    "Return median, 10th and 90th percentile."
    return [float(np.percentile(values, q)) for q in (50, 10, 90)]


def met(number: float, bound: Sequence[Any]) -> bool:
    "Tell whether `number` keeps `bound`."
    return number <= bound[1] if bound[0] == "<=" else number >= bound[1]


def pss(pids: Iterable[int]) -> Dict[str, int]:
    """Return the proportional memory of these processes in bytes: a page that k processes map counts 1/k in each.

    `total`, and of that `own`: without the pages of files, which are libraries that other processes share too.
    """
    found = {"total": 0, "own": 0}
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        found["total"] += 1024 * kilobytes["Pss"]
        found["own"] += 1024 * (kilobytes["Pss"] - kilobytes.get("Pss_File", 0))
    return found


def apart(module: str, function: str, *arguments: Any, **variables: str) -> Any:
    "Return the result of `module.function(*arguments)` in a new Python process, with these environment variables."
    code = (
        "import json, sys; arguments = json.loads(sys.argv[1]); sys.path.insert(0, arguments.pop()); "
        f"import {module}; print(json.dumps({module}.{function}(*arguments)))"
    )
    passed = json.dumps([*arguments, str(HERE)])
    command = [sys.executable, "-W", "ignore", "-c", code, passed]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **variables}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def in_child(function: Callable[[], float]) -> float:
    """Return the result of `function` in a forked child.

    Its memory is new to it, as in a user's process that loads once: the allocator has no blocks left over from an
    earlier round, which would spare one contender the page faults that the other has.
    """
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(into, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(into)
    with open(out) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return float(text)


def say(text: str) -> None:
    "Print a line of progress."
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
