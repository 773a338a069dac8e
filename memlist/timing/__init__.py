"""Time how long training waits for batches and how long it computes: clocks, epochs and their plot.

Nothing here knows an image, a store or fastai. A front end gives a `Watch` its loaders and a `TimedData`. Modules may
import torch, and matplotlib once something is drawn; nothing else of memlist comes in.
"""

from .clocks import CudaClock, HostClock, clock_for
from .epochs import WARM_MISSES, Epoch, Step, TimedData, Watch
from .plot import draw_epochs

__all__ = ["WARM_MISSES", "CudaClock", "Epoch", "HostClock", "Step", "TimedData", "Watch", "clock_for", "draw_epochs"]
