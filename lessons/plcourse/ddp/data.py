"""The data module of lesson 12 is the one that the lessons on images share."""

from plcourse.data import ImageData

__all__ = ["ImageData"]
