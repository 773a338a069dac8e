"""Time how long training waits for batches and how long it computes: clocks, epochs and their
plot, and comparisons of several sides.

Nothing here knows about images, stores or fastai. A front end passes a `TimedData` and loaders to a `Watch`. Modules
may import torch and NumPy, matplotlib to draw, and IPython where a notebook has it, but no other folder of memlist.
"""

from .clocks import CudaClock, HostClock, clock_for
from .epochs import WARM_MISSES, Epoch, Step, TimedData, Watch
from .plot import draw_epochs

__all__ = ["WARM_MISSES", "CudaClock", "Epoch", "HostClock", "Step", "TimedData", "Watch", "clock_for", "draw_epochs"]
