"""Tests, intervals and resampling: pure functions of numbers, without torch."""
