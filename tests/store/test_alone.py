"""`memlist.store` where only NumPy and psutil are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ABSENT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "fastai", "PIL", "torchvision", "pandas", "matplotlib", "fastprogress"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Absent())
"""

FILL_AND_READ = """
import multiprocessing, os, sys
import absent
import numpy as np
from memlist.store import ImageStore

def read(images):
    assert all((images.get(b"%d" % i).array == i).all() for i in range(100))
    images.count(True, 100)

if __name__ == "__main__":
    for images in (ImageStore("10MB"), ImageStore.open(sys.argv[1], "10MB")):
        for i in range(100):
            assert images.put(b"%d" % i, np.full((10, 10, 3), i, np.uint8))
        for method in ("fork", "spawn"):
            process = multiprocessing.get_context(method).Process(target=read, args=(images,))
            process.start()
            process.join()
            assert process.exitcode == 0, method
        assert images.info()[:2] == (100, 30_000) and images.info().hits == 200
        assert images.purge(file=True) == 30_000 and len(images) == 0
    loaded = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
    ours = {name.split(".")[1] for name in loaded if name.startswith("memlist.")}
    print("RESULT", *sorted(ours))
"""


def test_it_needs_numpy_and_psutil_only(tmp_path: Path) -> None:
    (tmp_path / "absent.py").write_text(ABSENT)
    (tmp_path / "main.py").write_text(FILL_AND_READ)
    done = subprocess.run(
        [sys.executable, "main.py", str(tmp_path / "cache")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["RESULT", "doors", "former", "store"], done.stderr
