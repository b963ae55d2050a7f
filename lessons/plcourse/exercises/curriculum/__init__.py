"""Exercises of lesson 15."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "pacing",
        "The hardest samples are never used for training.",
        "Which fraction is admitted at the last step of the ramp, and how is it rounded? And at the first step?",
    ),
    Exercise(
        "steps",
        "The curriculum looks fast: its epochs are shorter than those of the baseline.",
        "Count the optimizer steps. Fewer admitted samples must not mean fewer batches: iterate over them again.",
    ),
)
