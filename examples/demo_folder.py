"""Find the pictures of a folder as fastai's `ImageList.from_folder` does, and say why a folder can't be used.

Needs the standard library only: `make demo` checks the folder before it downloads anything.
"""

import mimetypes
import os
from pathlib import Path
from typing import List, NamedTuple

FEWEST = 10
LAYOUT = "one subfolder per class, such as cats/1.jpg and dogs/2.jpg"


class Unusable(Exception):
    "A folder that the demo can't train on. The text says why, and what to do."


class Pictures(NamedTuple):
    "The picture files of a folder, in the order in which fastai lists them, and why subfolders could not be read."

    files: List[Path]
    refused: List[OSError]


def find_pictures(folder):
    "Return the pictures in `folder` and below it; raise `Unusable` if a classifier can't be trained on them."
    try:
        os.listdir(folder)
    except FileNotFoundError:
        raise Unusable(f"{folder} does not exist: please check the name.") from None
    except NotADirectoryError:
        raise Unusable(f"{folder} is a file: please name the folder that has your pictures.") from None
    except OSError as error:
        raise Unusable(f"{folder} can't be read: {error.strerror}.") from None
    endings = {ending for ending, kind in mimetypes.types_map.items() if kind.startswith("image/")}
    files, refused = [], []
    for parent, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in names if not name.startswith(".")]
        files += [Path(parent, name) for name in names if f".{name.split('.')[-1].lower()}" in endings]
    check_classes(folder, files)
    return Pictures(files, refused)


def check_classes(folder, files):
    "Raise `Unusable` if there are too few files, or all are of one class."
    if len(files) < FEWEST:
        raise Unusable(
            f"{folder} has {len(files)} picture{'s' * (len(files) != 1)}: at least {FEWEST} are needed, in {LAYOUT}."
        )
    parents = {file.parent for file in files}
    if len({parent.name for parent in parents}) < 2:
        raise Unusable(f"All pictures are in {parents.pop()}: a classifier needs two classes, in {LAYOUT}.")
