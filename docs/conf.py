"""How Sphinx makes the site: `make docs`. Pages are Markdown, the reference comes from the docstrings."""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path
from typing import Any, List, Optional, Tuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from drawings import switched  # noqa: E402

import memlist  # noqa: E402
from memlist.cache import filling  # noqa: E402
from memlist.timing import epochs  # noqa: E402

project = "memlist"
author = "the authors of memlist"
version = release = memlist.__version__
html_title = "memlist"

extensions = ["sphinx.ext.autodoc", "myst_nb"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# -- the notebooks ------------------------------------------------------------------------------------------

# Sphinx takes pages only from its own folder. They are shown with the outputs that they were committed with.
notebooks = HERE / "notebooks"
notebooks.mkdir(exist_ok=True)
for _old in notebooks.glob("*.ipynb"):
    _old.unlink()
for _new in sorted((ROOT / "examples").glob("*.ipynb")):
    shutil.copy2(_new, notebooks)
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}  # from a CDN; no notebook here keeps a live widget

# -- Markdown -----------------------------------------------------------------------------------------------

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3


def with_the_switch(app: Any, *named: Any) -> None:
    "Called by Sphinx with the text of each page and of each included file, in a list that is changed in place."
    content = named[-1]
    content[0] = switched(content[0])


# -- the reference ------------------------------------------------------------------------------------------

default_role = "literal"  # docstrings quote code as Markdown does, between single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 72
nitpicky = True
# Other projects' names: to know where they are documented, their inventories would have to be fetched.
nitpick_ignore_regex = [
    (r"py:class", r"(fastai|numpy|np|pandas|os|torch|torchvision)\..*"),
    (r"py:class", r"Block"),  # internal: the header of a record
    # Of `in_memory`, whose annotations can't be evaluated where the site is built: fastai 2 isn't installed there.
    (r"py:class", r"(DataLoaders|Dataset|MaxRam)"),
]

# Docstrings that send their readers on to those of internal names, whose text stands here instead.
DETAILS = {"memlist.InMemory.load_data": filling.load_data, "memlist.DataWait.warm": epochs.Watch.warm}


def with_the_details(app: Any, what: str, name: str, obj: Any, options: Any, lines: List[str]) -> None:
    "Called by autodoc for each docstring."
    if name in DETAILS:
        text = inspect.cleandoc(DETAILS[name].__doc__ or "").replace("image of `lists`", "image")
        lines[:] = [*text.splitlines(), ""]


def without_arguments(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: Optional[str], returns: Optional[str]
) -> Optional[Tuple[str, None]]:
    "A twin is made as its fastai original is, with the keywords of `InMemory`; eight times over they tell nothing."
    if (
        what == "class"
        and issubclass(obj, (memlist.InMemory, memlist.MemoryImageDataBunch))
        and obj is not memlist.InMemory
    ):
        return "", None
    return None


def setup(app: Any) -> None:
    "Called by Sphinx."
    app.connect("source-read", with_the_switch)
    app.connect("include-read", with_the_switch)
    app.connect("autodoc-process-docstring", with_the_details)
    app.connect("autodoc-process-signature", without_arguments)


# -- the look -----------------------------------------------------------------------------------------------

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00568a", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ee", "color-brand-content": "#7cc4ee"},
}
