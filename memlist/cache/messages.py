"""Warnings that point at the user's own line: those of the store, for the layers above it."""

from ..store.warning import LIBRARIES, warn_user

__all__ = ["LIBRARIES", "warn_user"]
