"""Lesson 15: curricula; `loop` holds CurriculumLoop, `model` and `data` its pair, the other files what it drives."""
