"""Exercises of lesson 16."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "temperature",
        "The calibration error reported on the test split is too good to be true.",
        "Shuffle the labels of the test split. What may change in the result, and what does?",
    ),
    Exercise(
        "writer",
        "A prediction that was killed and restarted holds some samples twice.",
        "What is on disk when the second attempt starts, and how can that attempt tell what is complete?",
    ),
)
