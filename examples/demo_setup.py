"""Make the environment of `make demo`: check the folder, say what has to be downloaded, install it without noise.

Needs the standard library only, and runs on Python 3.7 too, which it refuses politely.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from demo_folder import Unusable, find_pictures

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 8), (3, 13)
# PyPI's torch for Linux needs CUDA libraries of 3 GB, which a demo on a CPU has no use for. This index has torch alone.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# GB to download and GB on the disk, for Python 3.11 on x86_64.
SMALL, LARGE = (0.4, 2), (3.2, 7)
WORTH_SHOWING = 20e6
UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
OFFLINE = r"name resolution|Name or service|NewConnectionError|ConnectTimeout|ProxyError|versions: none"


class Failed(Exception):
    "A reason why there is no environment, and what to do."


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path)
    parser.add_argument("--folder", default="", help="the user's folder, which is checked first")
    parser.add_argument("--gpu", action="store_true", help="install torch with its CUDA libraries")
    parser.add_argument("--index", default=CPU_INDEX, help="where torch without CUDA is looked for")
    args = parser.parse_args()
    try:
        if args.folder:
            find_pictures(Path(args.folder).expanduser())
        Installer(args.environment).install(find_python(), "" if args.gpu else args.index)
    except (Unusable, Failed) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped. Type `make demo` to go on; complete downloads are kept.", file=sys.stderr)
        sys.exit(130)


def find_python():
    "Return the Python that runs this, or another one on the path, that is neither too old nor too new."
    versions = [f"{major}.{minor}" for major, minor in reversed(supported())]
    without_venv = []
    for python in [sys.executable, *filter(None, (shutil.which(f"python{version}") for version in versions))]:
        version, complete = examine(python)
        if version in supported() and complete:
            return python
        if version in supported():
            without_venv.append(version)
    if without_venv:
        name = "python{}.{}".format(*without_venv[0])
        raise Failed(f"{name} lacks the module venv. On Debian and Ubuntu: sudo apt install {name}-venv")
    here = "{}.{}".format(*sys.version_info)
    raise Failed(
        f"The demo needs Python {versions[-1]} to {versions[0]}: fastai 1 runs on no other. This is Python {here}.\n"
        f"Install python{versions[0]}, or name one that you have: make demo PYTHON=/path/to/python{versions[0]}"
    )


def supported():
    return [(OLDEST[0], minor) for minor in range(OLDEST[1], NEWEST[1] + 1)]


def examine(python):
    "Return the version of `python`, and whether it can make environments; no version if it does not run."
    code = "import sys; print(*sys.version_info[:2]); import venv, ensurepip"
    done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else None, done.returncode == 0


class Installer:
    "Install the demo into an environment. What pip says goes to a log, which is shown if pip fails."

    def __init__(self, environment):
        self.environment, self.python = environment, environment / "bin" / "python"
        self.log, self.downloaded, self.fresh = environment / "install.log", 0, True

    def install(self, python, cpu_index):
        "Make or update the environment. Without `cpu_index`, torch comes with its CUDA libraries."
        begun = time.perf_counter()
        self.fresh = not ((self.environment / "ready").exists() and examine(str(self.python))[0])
        if self.fresh:
            print("First use: looking up what the demo needs …", flush=True)
            self.make(python)
        else:
            print(f"Updating {self.environment}: the list of packages has changed.", flush=True)
        self.log.write_text("")
        self.pip("install", "--upgrade", "pip")
        small = bool(cpu_index) and self.offers_cpu_build(cpu_index)
        self.announce(small, cpu_index)
        if small:
            self.pip("install", "torch", "torchvision", "--index-url", cpu_index)
        # A path in a .pth file: setuptools' other way finds a folder named memlist, such as the clone, first.
        self.pip("install", "--editable", f"{ROOT}[demo]", "--config-settings", "editable_mode=compat")
        print(f"Done: {self.downloaded / 1e9:.2f} GB in {time.perf_counter() - begun:.0f} s.\n", flush=True)

    def make(self, python):
        "Make an empty environment, in place of one that was not finished."
        done = subprocess.run([python, "-m", "venv", "--clear", str(self.environment)], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{self.environment} can't be made: {last_lines(done.stdout + done.stderr)}")

    def offers_cpu_build(self, index):
        "Return whether pip can take a torch without CUDA from `index`: it may be out of reach, or lack this version."
        command = [self.python, "-m", "pip", "install", "torch", "--constraint", ROOT / "constraints.txt"]
        command += ["--dry-run", "--quiet", "--report", "-", "--no-deps", "--ignore-installed"]
        command += ["--index-url", index, "--timeout", "8", "--retries", "1"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            return False
        chosen = json.loads(done.stdout)["install"]
        return all("+cpu" in package["metadata"]["version"] for package in chosen)

    def announce(self, small, cpu_index):
        "Say what it costs, before anything large is downloaded; raise `Failed` if the disk has no room."
        (download, disk), free = SMALL if small else LARGE, shutil.disk_usage(self.environment).free / 1e9
        why = "torch's build without CUDA; with CUDA, 3.2 GB: make demo GPU=1"
        if not small:
            why = "torch comes with its CUDA libraries"
            if cpu_index:
                why += f": the build without them, 0.4 GB in all, is not available from {cpu_index}"
        if not self.fresh:
            print(f"Download: at most {download} GB ({why}).", flush=True)
            return
        print(f"Download: about {download} GB ({why}).")
        times = f"{minutes(download, 100)} at 100 Mbit/s, {minutes(download, 20)} at 20 Mbit/s"
        print(f"Time: {times}; then 2 to unpack, and 2 for the demo itself.")
        print(f"Disk: {disk} GB, in {self.environment}: delete this folder to be rid of it.", flush=True)
        if free < disk:
            raise Failed(f"The disk has {free:.1f} GB left: please make room, then type `make demo` again.")

    def pip(self, *arguments):
        "Run pip with the constraints; show only the large downloads."
        constraints = [] if "pip" in arguments else ["--constraint", ROOT / "constraints.txt"]
        command = [str(self.python), "-m", "pip", *map(str, [*arguments, *constraints])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with self.log.open("a") as log, subprocess.Popen(command, text=True, errors="replace", **pipes) as process:
            for line in process.stdout:
                log.write(line)
                self.follow(line)
        if process.returncode:
            text = self.log.read_text()
            if re.search(OFFLINE, text):
                raise Failed(
                    "The download failed: the package index can't be reached. Please check the network (behind a\n"
                    f"proxy: export HTTPS_PROXY=…), then type `make demo` again. What pip said: {self.log}"
                )
            raise Failed(f"pip failed:\n{last_lines(text)}\nAll that it said: {self.log}")

    def follow(self, line):
        "Count a download, and show it if it is large."
        found = re.match(r"\s*Downloading (?:\S*/)?(\S+?)-(\d[^-\s]*)\S* \(([\d.]+) (bytes|kB|MB|GB)\)", line)
        if found:
            nbytes = float(found[3]) * UNITS[found[4]]
            self.downloaded += nbytes
            if nbytes >= WORTH_SHOWING:
                print(f"  downloading {found[1]} {found[2].replace('%2B', '+')}, {nbytes / 1e6:.0f} MB", flush=True)
        elif line.startswith("Installing collected packages") and self.downloaded >= WORTH_SHOWING:
            print("  unpacking", flush=True)


def minutes(gigabytes, megabits):
    "Return how long a download takes, rounded up."
    n = -int(-gigabytes * 8000 // (60 * megabits))
    return f"{n} minute{'s' * (n != 1)}"


def last_lines(text, n=15):
    return "\n".join(line for line in text.splitlines()[-n:] if line.strip())


if __name__ == "__main__":
    main()
