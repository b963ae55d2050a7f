"""Exercises of lesson 16."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "temperature",
        "The calibration error reported on the test part is too good to be true.",
        "Shuffle the labels of the test part. What of the result may change, and what does?",
    ),
    Exercise(
        "writer",
        "A prediction that was killed and started again holds some samples twice.",
        "What is on the disk when the second attempt begins, and how could that attempt know what is whole?",
    ),
)
