"""Two ranks under torchrun share one cache file: each image is decoded once and is in memory once."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import photo

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed.py"
# torch 1.8 has no torchrun yet, but its predecessor.
TORCHRUN = importlib.util.find_spec("torch.distributed.run") is not None
IMAGES = 200


def ranks(*arguments: Any) -> List[Dict[str, Any]]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    if not TORCHRUN:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = ["-m", "torch.distributed.launch", "--use_env", "--nproc_per_node=2", f"--master_port={port}"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launch, str(EXAMPLE), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {rank["rank"] for rank in found} == {0, 1}
    return found


@pytest.mark.parametrize("arguments", [["--workers", "1"], pytest.param(["--load"], marks=pytest.mark.full)])
def test_two_ranks_share_one_cache_file(tmp_path: Path, arguments: List[str]) -> None:
    for i in range(IMAGES):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        photo(i, 100, 150).save(folder / f"{i:03}.jpg")
    first = ranks(tmp_path / "photos", tmp_path / "cache", *arguments)
    for rank in first:
        assert rank["images"] == IMAGES and rank["misses"] <= 1.01 * IMAGES
        assert rank["nbytes"] >= 0.98 * IMAGES * 100 * 150 * 3
    one = max(rank["Rss"] for rank in first)
    assert one >= 0.9 * IMAGES * 100 * 150 * 3
    assert sum(rank["Pss"] for rank in first) <= 1.05 * one
    again = ranks(tmp_path / "photos", tmp_path / "cache")
    for rank, before in zip(sorted(again, key=lambda r: r["rank"]), sorted(first, key=lambda r: r["rank"])):
        assert rank["misses"] <= 2 and rank["loss"] == before["loss"]  # images of a dropped batch
