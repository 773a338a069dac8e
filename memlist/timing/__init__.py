"""Time how long training waits for batches and how long it computes: clocks, epochs, their plot, and comparisons.

Nothing here knows about images, stores or fastai. A front end passes a `TimedData` and loaders to a `Watch`. Modules
may import NumPy and torch, and matplotlib to draw, but no other folder of memlist.
"""

from .clocks import CudaClock, HostClock, clock_for
from .comparison import Comparison, Run
from .epochs import WARM_MISSES, Epoch, Step, TimedData, Watch
from .plot import draw_epochs

__all__ = [
    "WARM_MISSES",
    "Comparison",
    "CudaClock",
    "Epoch",
    "HostClock",
    "Run",
    "Step",
    "TimedData",
    "Watch",
    "clock_for",
    "draw_epochs",
]
