"""Run at the start of a Python process whose PYTHONPATH names this folder: there is no fastai for it."""

import sys

sys.modules["fastai"] = None  # type: ignore[assignment]
