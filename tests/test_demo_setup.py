"""`make demo` hands on the folder as typed, checks it first, says what it costs, hides noise, and shows failures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "examples"))

import demo_setup  # noqa: E402

NOISE = """echo 'Collecting torch==2.14.1'
echo '  Downloading https://example.org/torch-2.14.1%2Bcpu-cp311-none-any.whl (190.5 MB)'
echo '  DeprecationWarning: project.license is deprecated' >&2
echo '  Downloading fastai-1.0.61-py3-none-any.whl (239.5 kB)'
echo 'Installing collected packages: torch, fastai'
"""


def script(path: Path, text: str) -> Path:
    "Write a program of the shell."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make(tmp_path: Path, *settings: str, python: object = sys.executable, **env: str) -> Any:
    "Run `make demo` with its environment in `tmp_path`."
    command = ["make", "-C", str(ROOT), "--no-print-directory", "demo", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    ours = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DATA", "GPU", "DEMO")  # these tests may be run by make
    clean = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run([*command, *settings], capture_output=True, text=True, env={**clean, **env}, timeout=300)


def offline() -> Dict[str, str]:
    "Return the settings with which pip, and nothing else, finds no network."
    nowhere = "http://127.0.0.1:9"
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{nowhere}/simple",
        "HTTPS_PROXY": nowhere,
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
    }


# -- make ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder", ["pictures", "my  pictures", "~/x y", "-x", """it's "q" `id` $HOME $(HOME) \\ # & ; | *""", "/tmp/ü"]
)
def test_the_folder_is_handed_on_as_it_was_typed(tmp_path: Path, folder: str) -> None:
    script(tmp_path / "venv-demo/bin/python", 'for word in "$@"; do printf "<%s>" "$word"; done')
    (tmp_path / "venv-demo/ready").touch()
    assert make(tmp_path, f"DATA={folder}").stdout == f"<examples/demo.py><--><{folder}>"
    assert make(tmp_path, DATA=folder).stdout == f"<examples/demo.py><--><{folder}>"
    assert make(tmp_path).stdout == "<examples/demo.py>"


def test_an_environment_that_is_there_is_used_again(tmp_path: Path) -> None:
    for name in ("venv-demo", "venv-demo-gpu", "venv"):
        script(tmp_path / name / "bin/python", f'printf "%s" "{name}"')
        (tmp_path / name / "ready").touch()
        assert make(tmp_path, *(["GPU=1"] if name.endswith("gpu") else []), python="/none").stdout == name


def test_the_folder_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    done = make(tmp_path, f"DATA={tmp_path}/no such folder", **offline())
    assert done.returncode
    assert done.stderr.startswith(f"{tmp_path}/no such folder does not exist: please check the name.\nmake: ***")
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_a_python_that_is_not_there_or_too_old(tmp_path: Path) -> None:
    done = make(tmp_path, python="python-of-nobody")
    assert done.returncode and done.stderr.startswith("There is no python-of-nobody here: install Python 3.8 to 3.13")
    old = script(tmp_path / "old", f"""exec {sys.executable} -c "import sys; sys.version_info = (3, 6, 1); $2" """)
    done = make(tmp_path, python=old)
    assert done.returncode and done.stderr.startswith(f"The demo needs Python 3.8 to 3.13, and {old} is older.")
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_without_a_network(tmp_path: Path) -> None:
    done = make(tmp_path, **offline())
    assert done.returncode
    assert done.stdout.startswith("First use: looking up what the demo needs …\n")
    assert "the package index can't be reached. Please check the network" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 4
    assert not (tmp_path / "venv-demo/ready").exists()


# -- the Python ---------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "Let this Python be too old, and the path have no other."
    monkeypatch.setattr(demo_setup, "OLDEST", (3, 90))
    monkeypatch.setattr(demo_setup, "NEWEST", (3, 92))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_this_python_is_taken_if_it_can_run_the_demo() -> None:
    assert demo_setup.find_python() == sys.executable


def test_the_newest_python_of_the_path_that_can_run_the_demo_is_taken(path: Path) -> None:
    for version in ("3.90", "3.91"):
        script(path / f"python{version}", f"echo {version.replace('.', ' ')}")
    script(path / "python3.92", "echo 3 92; exit 1")
    assert demo_setup.find_python() == str(path / "python3.91")


def test_a_python_without_venv_is_named(path: Path) -> None:
    script(path / "python3.91", "echo 3 91; echo 'No module named ensurepip' >&2; exit 1")
    with pytest.raises(
        demo_setup.Failed, match=r"python3\.91 lacks the module venv.*sudo apt install python3\.91-venv"
    ):
        demo_setup.find_python()


def test_no_python_that_can_run_the_demo(path: Path) -> None:
    with pytest.raises(demo_setup.Failed) as error:
        demo_setup.find_python()
    here = "{}.{}".format(*sys.version_info)
    assert f"needs Python 3.90 to 3.92: fastai 1 runs on no other. This is Python {here}." in str(error.value)
    assert "make demo PYTHON=/path/to/python3.92" in str(error.value)


# -- installing ---------------------------------------------------------------------------------------------------


def installer(tmp_path: Path, pip: str) -> demo_setup.Installer:
    "Return an installer into an environment that is ready, and whose pip is this program of the shell."
    script(tmp_path / "env/bin/python", f'if [ "$1" = -c ]; then echo 3 11; exit; fi\n{pip}')
    (tmp_path / "env/ready").touch()
    return demo_setup.Installer(tmp_path / "env")


def test_noise_is_hidden_and_large_downloads_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pip = f"""case "$*" in *--report*) echo '{{"install": [{{"metadata": {{"version": "2.14.1+cpu"}}}}]}}';;
*"--upgrade pip"*) ;; *) echo "$*"; {NOISE};; esac"""
    found = installer(tmp_path, pip)
    found.install(sys.executable, "https://example.org/cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Download: at most 0.4 GB (torch's build without CUDA;")
    assert lines[2:4] == ["  downloading torch 2.14.1+cpu, 190 MB", "  unpacking"]
    assert lines[-2].startswith("Done: 0.38 GB in ")  # torch twice, since this pip does the same each time
    log = found.log.read_text()
    assert "DeprecationWarning" in log
    assert "install torch torchvision --index-url https://example.org/cpu --constraint" in log
    assert f"install --editable {ROOT}[demo] --config-settings editable_mode=compat --constraint" in log


def test_where_torch_without_cuda_is_not_there_the_announcement_says_so(tmp_path: Path, capsys: Any) -> None:
    found = installer(tmp_path, '[ -z "$(echo $* | grep report)" ]; code=$?; echo $*; exit $code')
    found.install(sys.executable, "https://example.org/cpu")
    out = capsys.readouterr().out
    assert "Download: at most 3.2 GB (torch comes with its CUDA libraries: the build without them, 0.4 GB in" in out
    assert "--index-url" not in found.log.read_text()
    found.install(sys.executable, "")
    assert "Download: at most 3.2 GB (torch comes with its CUDA libraries)." in capsys.readouterr().out


def test_what_pip_said_is_shown_if_it_fails(tmp_path: Path) -> None:
    found = installer(tmp_path, f"{NOISE}\necho 'ERROR: No matching distribution found for torch==99' >&2; exit 1")
    with pytest.raises(demo_setup.Failed) as error:
        found.install(sys.executable, "")
    assert "DeprecationWarning" in str(error.value) and "ERROR: No matching distribution" in str(error.value)
    assert str(found.log) in str(error.value)


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(1.5e9)))
    found = demo_setup.Installer(tmp_path)
    with pytest.raises(demo_setup.Failed, match=r"The disk has 1\.5 GB left: please make room"):
        found.announce(True, "https://example.org/cpu")


def test_the_announcement_comes_before_the_download(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(demo_setup, "SMALL", (0.4, 0))
    demo_setup.Installer(tmp_path).announce(True, "https://example.org/cpu")
    assert capsys.readouterr().out.splitlines() == [
        "Download: about 0.4 GB (torch's build without CUDA; with CUDA, 3.2 GB: make demo GPU=1).",
        "Time: 1 minute at 100 Mbit/s, 3 minutes at 20 Mbit/s; then 2 to unpack, and 2 for the demo itself.",
        f"Disk: 0 GB, in {tmp_path}: delete this folder to be rid of it.",
    ]


@pytest.mark.parametrize(("local", "offered"), [("+cpu", True), ("", False), (None, False)])
def test_pip_says_whether_an_index_has_torch_without_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: Any, offered: bool
) -> None:
    for key, value in offline().items():
        monkeypatch.setenv(key, value)
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    if local is not None:
        version = re.search(r"^torch==(\S+?);", (ROOT / "constraints.txt").read_text(), re.M)[1] + local  # type: ignore[index]
        name = f"torch-{version}"
        with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{name}.dist-info/RECORD", "")
    files = "".join(f'<a href="{file.name}">{file.name}</a>' for file in folder.iterdir())
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{files}</body></html>")
    found = installer(tmp_path, f'exec {sys.executable} "$@"')
    assert found.offers_cpu_build((tmp_path / "index").as_uri()) is offered


def test_ctrl_c_stops_without_a_traceback_and_the_next_try_begins_anew(tmp_path: Path) -> None:
    installer(tmp_path, 'case "$*" in *"--upgrade pip"*) exit;; esac; trap "exit 1" INT; echo waiting; sleep 60 & wait')
    command = [sys.executable, str(ROOT / "examples/demo_setup.py"), str(tmp_path / "env"), "--gpu"]
    pipes: Dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    assert process.stdout is not None
    assert any(line.startswith("Download: ") for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "Stopped. Type `make demo` to go on; complete downloads are kept."


def test_an_environment_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    found = installer(tmp_path, "exit 1")
    (tmp_path / "env/ready").unlink()
    (tmp_path / "env/left-over").touch()
    python = script(tmp_path / "python", 'echo "$@"; exit 1')
    with pytest.raises(demo_setup.Failed, match=f"can't be made: -m venv --clear {tmp_path}/env"):
        found.install(str(python), "")
