"""Exercises of lesson 18."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "flip",
        "With augmentation the classifier learns, but the segmenter does not.",
        "Draw an augmented image next to its mask. How many random numbers are drawn?",
    ),
    Exercise(
        "average",
        "The averaged weights are hardly better than the last ones.",
        "Write down the average after three models. How much does the first weigh? And which state is not averaged?",
    ),
)
