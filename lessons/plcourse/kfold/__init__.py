"""Lesson 14: cross-validation as a fit loop; the guide is README.md in this folder."""
