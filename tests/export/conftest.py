"""Exports that several test files look at."""

from exports_for_tests import exported, exported_slowly

__all__ = ["exported", "exported_slowly"]
