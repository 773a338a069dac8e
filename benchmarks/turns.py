"""Let systems do a job in turns: each in a process of its own, one epoch after the other, in an order that rotates."""

import contextlib
import json
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from measure import interleave


class Contender:
    "One system in its process, which prepares at once and then runs an epoch whenever it is asked."

    def __init__(self, command: Sequence[str], environment: Dict[str, str], errors: Path, patience: float) -> None:
        pipes: Dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with errors.open("w") as written:
            self.process = subprocess.Popen(command, text=True, env=environment, stderr=written, **pipes)
        self.errors, self.patience = errors, patience
        self.failed: Optional[str] = None
        #: Seconds of processor time per image, of each epoch.
        self.cpu: List[float] = []
        self.answer()

    def answer(self) -> Dict[str, Any]:
        "Return the next answer; nothing, and note why, where the process ended or takes too long."
        assert self.process.stdout is not None
        late = threading.Timer(self.patience, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        if line:
            return json.loads(line)  # type: ignore[no-any-return]
        if self.failed is None:
            self.process.wait()
            said = "\n".join(self.errors.read_text().strip().splitlines()[-3:])
            self.failed = said or f"ended with {self.process.returncode}; it may take {self.patience:.0f} s an epoch"
        return {}

    def epoch(self, _: int = 0) -> float:
        "Run one epoch; return its seconds per image, not a number if the process has ended."
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("epoch\n")
            self.process.stdin.flush()
        found = self.answer()
        if not found:
            return float("nan")
        self.cpu.append(found["cpu"] / found["images"])
        return found["seconds"] / found["images"]  # type: ignore[no-any-return]

    def close(self) -> Optional[str]:
        "End the process; return what was wrong with its last batch."
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        found = {} if self.failed else self.answer()
        self.process.stdout.close()
        self.process.wait()
        return found.get("wrong")


def epochs(start: Dict[str, Callable[[], Contender]], keeps: Dict[str, bool], rounds: int) -> Dict[str, Any]:
    """Return the samples of each contender, in seconds per image, what was wrong, and why one failed.

    `cpu` has the processor time of the same epochs.

    One epoch that is not counted comes first, for those that keep anything: it fills and compiles. A contender that
    fails is left out, and the others go on.
    """
    running = {name: make() for name, make in start.items()}
    for name, one in running.items():
        if keeps[name] and one.failed is None:
            one.epoch()
    able = {name: one.epoch for name, one in running.items() if one.failed is None}
    samples = interleave(able, rounds, warm_up=0)
    found: Dict[str, Any] = {}
    for name, one in running.items():
        problem = one.close()
        measured = {"samples": samples.get(name), "cpu": one.cpu[-rounds:], "wrong": problem}
        found[name] = {"failed": one.failed} if one.failed else measured
    return found


def first_batches(ask: Dict[str, Callable[[], Dict[str, Any]]], rounds: int) -> Dict[str, Any]:
    "Return the same of first batches, in seconds: a new process of each contender per round."
    found: Dict[str, Any] = {name: {"samples": [], "wrong": None} for name in ask}
    names: List[str] = list(ask)
    for k in range(rounds):
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            answer = ask[name]()
            if "failed" in answer:
                found[name] = answer
            elif "samples" in found[name]:
                found[name]["samples"].append(answer["first"])
                found[name]["wrong"] = found[name]["wrong"] or answer["wrong"]
    return found
