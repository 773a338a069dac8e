"""Describe the machine and the versions that the figures hold for."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from PIL import features

import memlist
from memlist.store import system

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fastai", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "scikit-image")


def surroundings() -> Dict[str, Any]:
    "Return processor, memory, system, versions, and the revision of the checkout."
    model = [line for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    memory = [line for line in _text("/proc/meminfo").splitlines() if line.startswith("MemTotal")]
    pages = _text("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "cpu": model[0].split(":")[1].strip() if model else platform.processor(),
        "cpus": system.usable_cpus(),
        "memory_GiB": round(int(memory[0].split()[1]) / 1024**2, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "shmem_huge_pages": next((word[1:-1] for word in pages.split() if word[0] == "["), "unknown"),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "jpeg": ("libjpeg-turbo " if features.check_feature("libjpeg_turbo") else "libjpeg ")
        + str(features.version_codec("jpg")),
        "versions": {"memlist": memlist.__version__, **{name: metadata.version(name) for name in PACKAGES}},
        "revision": _revision(ROOT / ".git"),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _revision(git: Path) -> Optional[str]:
    head = _text(str(git / "HEAD")).strip()
    if not head.startswith("ref: "):
        return head or None
    found = _text(str(git / head[5:])).strip()
    packed = [line.split()[0] for line in _text(str(git / "packed-refs")).splitlines() if line.endswith(" " + head[5:])]
    return found or (packed[0] if packed else None)
