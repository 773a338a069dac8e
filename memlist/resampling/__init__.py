"""Cut, resize and turn pictures of bytes, a batch at a time, exactly as Pillow does.

`render` does it. Its steps are `Crop`, `Resize` and `Turn`; `supported` tells which of Pillow's modes and filters it
knows. This folder knows no library's transforms: a front end draws, and says here what to do with which picture. It may
import NumPy, Pillow, numba, torch and the folder `batch`.

- `steps`: the steps
- `axes`: which rows and columns of a picture lie in a window
- `pillow`: one picture, by Pillow
- `render`: a batch
"""

from .render import render
from .steps import Crop, Resize, Step, Turn, supported

__all__ = ["Crop", "Resize", "Step", "Turn", "render", "supported"]
