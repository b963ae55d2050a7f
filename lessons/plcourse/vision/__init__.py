"""Lesson 18: one network that classifies and segments, with averaged weights or without."""
