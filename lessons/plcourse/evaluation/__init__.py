"""Lesson 16: evaluation and prediction."""
