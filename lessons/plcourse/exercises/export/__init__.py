"""Exercises of lesson 17."""
