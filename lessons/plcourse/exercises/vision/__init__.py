"""Exercises of lesson 18."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "flip",
        "The classifier learns, the segmenter does not, and only with augmentation on.",
        "Draw an image with its mask beside it, after the augmentation. How many coins are tossed?",
    ),
    Exercise(
        "average",
        "The averaged weights are hardly better than the last ones.",
        "Write down the average after three models. What weight has the first? And what is averaged of a batch norm?",
    ),
)
