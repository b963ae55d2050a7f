"""Lesson 15: curricula; `loop` has CurriculumLoop, `sampler`, `pacing` and `scorers` its parts."""
