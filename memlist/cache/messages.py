"""Messages that more than one front end shows, and warnings that point at the user's own line, from `store`."""

from __future__ import annotations

from ..store.warning import LIBRARIES, warn_user

__all__ = ["LIBRARIES", "reduced", "warn_user"]


def reduced(name: str, max_size: int, whose: str) -> str:
    """Return the message that pixels differ from those of stock, because of `max_size`.

    `name`: what has the images; `whose`: the object of stock that has the other pixels.
    """
    return (
        f"{name}: with max_size={max_size} images are kept with their shorter side reduced to {max_size} pixels at "
        f"most, so the pixels of larger ones differ from those of {whose}. For the same pixels, leave max_size out."
    )
