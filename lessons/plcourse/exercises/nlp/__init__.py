"""Exercises of lesson 19."""
