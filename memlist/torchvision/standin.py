"""`StandIn`: a picture that has a mode and a size but no pixels, and notes what is done to it.

torchvision's own transforms are called with it. They draw their random numbers and compute their boxes as they always
do, since both depend on the size alone; what they ask of the picture becomes the steps of `memlist.resampling`. So
nothing random is written again here, and a transform that was edited in place simply does something else.
"""

from __future__ import annotations

from typing import Any, NoReturn, Tuple

import PIL.Image

from ..resampling import Crop, Resize, Step, Turn, supported


class Untold(Exception):
    "Raised where a stand-in is asked for what only pixels can tell, or for a step that is not known."


class StandIn(PIL.Image.Image):
    "A picture of `mode` and `size`, (width, height), after `steps`. Anything but the steps below raises `Untold`."

    mode: str = ""
    size: Tuple[int, int] = (0, 0)
    width: int = 0
    height: int = 0
    steps: Tuple[Step, ...] = ()

    def __init__(self, mode: str, size: Tuple[int, int], steps: Tuple[Step, ...] = ()) -> None:
        # Not Pillow's own: it would need pixels.
        self.mode, self.size, self.steps = mode, size, steps
        self.width, self.height = size

    def __getattr__(self, name: str) -> NoReturn:
        raise Untold(f"it looks at {name}")

    def load(self) -> NoReturn:
        raise Untold("it looks at pixels")

    def crop(self, box: Any = None) -> StandIn:
        "Note a window."
        left, top, right, bottom = box
        if not type(left) is type(top) is type(right) is type(bottom) is int:
            left, top, right, bottom = map(_whole, box)
        return self.windowed(Crop(left, top, right - left, bottom - top))

    def windowed(self, step: Crop) -> StandIn:
        """Note a window, which may reach beyond the picture.

        A window of a window is one, such as padding and then a crop. Where a picture is mirrored more than once, that
        is left to whoever makes it.
        """
        if not self.steps:
            return self._after(step, (step.width, step.height))
        steps, last = self.steps, self.steps[-1]
        within = 0 <= step.left <= self.width - step.width and 0 <= step.top <= self.height - step.height
        if isinstance(last, Crop) and within and last.mode in ("constant", "edge"):
            steps = steps[:-1]
            step = step._replace(left=last.left + step.left, top=last.top + step.top, fill=last.fill, mode=last.mode)
        return StandIn(self.mode, self.size, steps)._after(step, (step.width, step.height))

    def resize(self, size: Any, resample: Any = None, box: Any = None, reducing_gap: Any = None) -> StandIn:
        "Note another size."
        width, height = map(_whole, size)
        if resample is None or box is not None or reducing_gap is not None or not supported(self.mode, int(resample)):
            raise Untold("it resizes in a way that is not known")
        return self._after(Resize(width, height, int(resample)), (width, height))

    def transpose(self, method: Any) -> StandIn:
        "Note a flip or a turn."
        code = _whole(method)
        if not 0 <= code <= 6:
            raise Untold("it turns in a way that is not known")
        return self._after(Turn(code), self.size[::-1] if code in (2, 4, 5, 6) else self.size)

    def _after(self, step: Step, size: Tuple[int, int]) -> StandIn:
        if size[0] < 1 or size[1] < 1:  # Pillow raises, or makes a picture without pixels
            raise Untold("it leaves no pixels")
        return StandIn(self.mode, size, (*self.steps, step))


def _whole(number: Any) -> int:
    "Return a whole number; raise `Untold` for others, which Pillow would round."
    if type(number) is int:
        return number
    if int(number) != number:
        raise Untold("it uses fractions of pixels")
    return int(number)
