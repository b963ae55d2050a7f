"""Exercises of lesson 18."""
