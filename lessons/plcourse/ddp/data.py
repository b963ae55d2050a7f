"""The data module of lesson 12, which is that of all lessons on images."""

from plcourse.data import ImageData

__all__ = ["ImageData"]
