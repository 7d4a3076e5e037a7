"""Exports that several test files look at."""

from exports_for_tests import exported

__all__ = ["exported"]
