"""Check how the package is built: imports, sizes, docstrings, state. `make lint` runs it, and so does test_house.py.

Everything is read from the syntax tree: nothing of memlist is imported, so imports inside functions and under
TYPE_CHECKING count like all others. Each check returns the list of what is wrong, a line each.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "memlist"

# The floors. Which folders a folder may import from; what is missing here may not be imported.
FOLDERS: Dict[str, Set[str]] = {
    "store": set(),
    "cache": {"store"},
    "batch": set(),
    "resampling": {"batch"},
    "timing": set(),
    "fastai1": {"store", "cache", "batch", "resampling", "timing"},
    "fastai2": {"store", "cache", "batch", "resampling", "timing"},
    "torchvision": {"store", "cache", "batch", "resampling", "timing"},
}
# Which packages besides the standard library a folder may import.
PACKAGES: Dict[str, Set[str]] = {
    "store": {"numpy", "psutil", "numba", "llvmlite"},
    "cache": {"numpy", "psutil", "PIL"},
    "batch": {"numpy", "torch", "numba", "llvmlite", "triton"},
    "resampling": {"numpy", "PIL", "torch", "numba", "llvmlite"},
    "timing": {"numpy", "torch", "matplotlib"},
    "torchvision": {"numpy", "PIL", "torch", "torchvision"},
    "fastai1": {"numpy", "PIL", "torch", "fastai", "pandas", "matplotlib", "IPython"},
    "fastai2": {"numpy", "PIL", "torch", "torchvision", "fastai", "fastcore", "fasttransform", "plum", "matplotlib"},
}
# The same, for imports inside `try`: the folder works without these.
OPTIONAL: Dict[str, Set[str]] = {"cache": {"fastprogress", "IPython"}}
# Modules that nothing imports, and what may import them all the same.
TOPMOST: Dict[str, Set[str]] = {
    "memlist": {"memlist.__main__"},
    "memlist.__main__": set(),
    "memlist.former": {"memlist"},
    "memlist.doors": {"memlist"},
}

# Lines, at most. Whatever is longer is named in LONGER (`"folder/file.py"`, `"folder/file.py:Class.method"`), with the
# reason why it is not cut.
MOST_IN_A_FILE, MOST_IN_A_CLASS, MOST_IN_A_FUNCTION = 500, 300, 60
LONGER: Dict[str, str] = {}

# First words of a docstring that make its reader look for the sentence. A function's says what it does, verb first.
NO_BEGINNINGS = {"What", "Whether", "Of", "Who", "Where", "When", "As", "That", "How", "Beyond", "Without"}
NO_BEGINNINGS_OF_FUNCTIONS = NO_BEGINNINGS | {"The", "A", "An"}

# What can be changed in place. A module may have such constants, in capitals and written out; one that begins empty, or
# that holds its values weakly, is state, whatever it is called.
CONTAINERS = {"dict", "list", "set", "bytearray", "defaultdict", "deque", "OrderedDict", "Counter"}
WEAK_CONTAINERS = {"WeakValueDictionary", "WeakKeyDictionary", "WeakSet"}
STATE: Dict[str, str] = {
    "store/registry.py": "the stores of this process, held weakly, so that one file or path has one store",
}


class Module(NamedTuple):
    "A module: its dotted name, its file's name for messages, its lines, and its syntax tree."

    name: str
    file: str
    lines: int
    tree: ast.Module

    @property
    def folder(self) -> Optional[str]:
        "The folder of the package that it lies in; None for the modules above all folders."
        parts = self.file.split("/")
        return parts[0] if len(parts) > 1 else None


Arrow = Tuple[str, str]
Definition = Union[ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef]


def package_folder() -> Path:
    "Return the folder of the package: next to the tests, or installed, where it is not there."
    if (ROOT / PACKAGE).exists():
        return ROOT / PACKAGE
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def modules_of(folder: Path, package: str = PACKAGE) -> Dict[str, Module]:
    "Return the modules below `folder`, by name. Without `package` they import one another by their bare names."
    found = {}
    for path in sorted(folder.rglob("*.py") if package else folder.glob("*.py")):
        file = path.relative_to(folder)
        parts = [*([package] if package else []), *file.with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, file.as_posix(), text.count("\n"), ast.parse(text))
    return found


# -- imports ------------------------------------------------------------------------------------------------------


def imports_of(module: Module, known: Dict[str, Module]) -> Iterator[Tuple[str, int, bool]]:
    "Yield all that a module imports: a dotted name, the line, and whether it is inside `try`."
    package = module.name.split(".") if module.file.endswith("__init__.py") else module.name.split(".")[:-1]
    tried = {id(one) for node in ast.walk(module.tree) if isinstance(node, ast.Try) for one in ast.walk(node)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in tried
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from .store import log` imports a module, `from .store import ImageStore` a name of one.
                whole = f"{origin}.{alias.name}"
                yield whole if whole in known else origin, node.lineno, id(node) in tried


def arrows_of(known: Dict[str, Module]) -> Dict[Arrow, int]:
    "Return which module imports which, and in which line."
    arrows: Dict[Arrow, int] = {}
    for module in known.values():
        for name, line, _ in imports_of(module, known):
            while name and name not in known:  # `import memlist.store.log.Log` imports the module
                name = name.rpartition(".")[0]
            if name and name != module.name:
                arrows.setdefault((module.name, name), line)
    return arrows


def circles(known: Dict[str, Module]) -> List[str]:
    "Return the shortest circle of imports through each module that lies on one."
    arrows = arrows_of(known)
    after: Dict[str, List[str]] = {name: [] for name in known}
    for one, other in sorted(arrows):
        after[one].append(other)
    found: Dict[frozenset, str] = {}
    for start in known:
        came: Dict[str, str] = {}
        todo = [start]
        for name in todo:  # which grows as it is read: breadth first
            for other in after[name]:
                if other not in came:
                    came[other] = name
                    todo.append(other)
        if start in came:
            circle = [start, came[start]]
            while circle[-1] != start:
                circle.append(came[circle[-1]])
            steps = [f"{one}:{arrows[one, other]} -> {other}" for one, other in zip(circle[:0:-1], circle[-2::-1])]
            found.setdefault(frozenset(circle), "circle: " + ", ".join(steps))
    return list(found.values())


def climbing(known: Dict[str, Module]) -> List[str]:
    "Return the imports that go from a folder to one that it may not import, and those of the topmost modules."
    wrong = []
    for (one, other), line in sorted(arrows_of(known).items()):
        below, above = known[one].folder, known[other].folder
        if other in TOPMOST:
            allowed = one in TOPMOST[other]
        else:
            allowed = below is None or below == above or above in FOLDERS.get(below, ())
        if not allowed:
            wrong.append(f"climbs: {known[one].file}:{line} imports {other}")
    wrong += [
        f"unknown folder: say in tests/house.py what {folder}/ may import"
        for folder in sorted({module.folder for module in known.values() if module.folder} - set(FOLDERS))
    ]
    return wrong


def foreign(known: Dict[str, Module]) -> List[str]:
    "Return the imports of packages that a folder is to do without. It needs Python 3.10, which knows its own modules."
    ours = {PACKAGE, "__future__", *sys.stdlib_module_names}  # type: ignore[attr-defined,unused-ignore]
    wrong = set()
    for module in known.values():
        folder = module.folder
        if folder is not None:
            for name, line, tried in imports_of(module, known):
                package = name.split(".")[0]
                allowed = PACKAGES.get(folder, set()) | (OPTIONAL.get(folder, set()) if tried else set())
                if package not in ours | allowed:
                    wrong.add(f"foreign: {module.file}:{line} imports {package}")
    return sorted(wrong)


# -- sizes --------------------------------------------------------------------------------------------------------


def definitions_of(module: Module) -> Iterator[Tuple[str, Definition]]:
    "Yield classes and functions with their dotted names, those inside of others included."
    todo: List[Tuple[str, ast.AST]] = [("", module.tree)]
    while todo:
        outer, node = todo.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{outer}.{child.name}" if outer else child.name
                yield name, child
                todo.append((name, child))
            else:
                todo.append((outer, child))


def too_long(known: Dict[str, Module]) -> List[str]:
    "Return the files, classes and functions with too many lines, and the entries of LONGER that are not needed."
    sizes: Dict[str, Tuple[int, int]] = {}
    for module in known.values():
        sizes[module.file] = module.lines, MOST_IN_A_FILE
        for name, node in definitions_of(module):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            most = MOST_IN_A_CLASS if isinstance(node, ast.ClassDef) else MOST_IN_A_FUNCTION
            sizes[f"{module.file}:{name}"] = lines, most
    wrong = [
        f"too long: {what} has {lines} lines, {most} are allowed"
        for what, (lines, most) in sizes.items()
        if lines > most and what not in LONGER
    ]
    for what in LONGER:
        lines, most = sizes.get(what, (0, 1))
        if lines <= most:
            wrong.append(f"not needed: {what} in LONGER of tests/house.py is not too long")
    return wrong


# -- words and state ----------------------------------------------------------------------------------------------


def is_property(node: Definition) -> bool:
    "Return whether a function is read like an attribute: its docstring may then be a noun's."
    names = [ast.dump(decorator) for decorator in node.decorator_list]
    return any("property" in name for name in names)


def beginnings(known: Dict[str, Module]) -> List[str]:
    "Return the docstrings that begin with a word that no docstring begins with."
    wrong = []
    for module in known.values():
        nodes: List[Tuple[str, Union[ast.Module, Definition]]] = [("", module.tree), *definitions_of(module)]
        for name, node in nodes:
            text = (ast.get_docstring(node) or "").split()
            noun = isinstance(node, (ast.Module, ast.ClassDef)) or is_property(node)
            if text and text[0].strip(",:;") in (NO_BEGINNINGS if noun else NO_BEGINNINGS_OF_FUNCTIONS):
                wrong.append(f"docstring: {module.file}:{getattr(node, 'lineno', 1)} {name}: {' '.join(text[:8])} …")
    return wrong


def is_state(name: str, value: Optional[ast.expr]) -> bool:
    "Return whether a module that binds `name` to `value` will change it: it is mutable, and not a constant."
    constant = name == "__all__" or name.isupper()
    if isinstance(value, ast.Dict):
        return not (constant and value.keys)
    if isinstance(value, (ast.List, ast.Set)):
        return not (constant and value.elts)
    if isinstance(value, (ast.DictComp, ast.ListComp, ast.SetComp)):
        return not constant
    if isinstance(value, ast.Call):
        called = getattr(value.func, "attr", getattr(value.func, "id", None))
        return called in WEAK_CONTAINERS or (called in CONTAINERS and not (constant and value.args))
    return False


def state(known: Dict[str, Module]) -> List[str]:
    "Return the module-level names that are bound to something that changes, and uses of `global`."
    wrong = []
    for module in known.values():
        if module.file in STATE:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Global):
                wrong.append(f"state: {module.file}:{node.lineno} global {', '.join(node.names)}")
            elif node in module.tree.body and isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name) and is_state(target.id, node.value):
                        wrong.append(f"state: {module.file}:{node.lineno} {target.id}")
    return wrong


def main() -> int:
    "Print what is wrong with the package and the benchmarks; return 1 if anything is."
    known = modules_of(package_folder())
    benchmarks = modules_of(ROOT / "benchmarks", "")
    wrong = [*circles(known), *circles(benchmarks), *climbing(known), *foreign(known)]
    wrong += [*too_long(known), *beginnings(known), *state(known)]
    for line in wrong:
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
