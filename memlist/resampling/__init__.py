"""Cut, resize and turn pictures of bytes, a batch at a time, exactly as Pillow does.

`render` does it. Its steps are `Crop`, `Resize` and `Turn`; `supported` tells which of Pillow's modes and filters it
knows, and `prepare` compiles what it uses. This folder knows no library's transforms: a front end draws, and says here
what to do with which picture. It may import NumPy, Pillow, numba, torch and the folder `batch`.

- `steps`: the steps
- `axes`: which rows and columns of a picture lie in a window
- `pillow`: one picture, by Pillow
- `jobs`: what the kernels do for a picture; `compiled` calls them; `kernels` and `weight_kernels` have the formulas,
  and `bits` the instructions that numba lacks
- `probe`: whether the kernels make what Pillow makes
- `render`: a batch, by the kernels or by Pillow
"""

from .render import prepare, render
from .steps import Crop, Resize, Step, Turn, supported

__all__ = ["Crop", "Resize", "Step", "Turn", "prepare", "render", "supported"]
