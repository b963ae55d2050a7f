"""Exercises of lesson 15."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "pacing",
        "The hardest samples are never trained on.",
        "Which share is admitted at the last step of the ramp, and what does rounding make of it? And at the first?",
    ),
    Exercise(
        "steps",
        "The curriculum looks fast: its epochs are shorter than those it is compared with.",
        "Count optimizer steps. Fewer admitted samples must not mean fewer batches: go through them again.",
    ),
)
