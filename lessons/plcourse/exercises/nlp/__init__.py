"""Exercises of lesson 19."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "windows",
        "The language model has a loss near zero, and writes the same letter again and again.",
        "Lay input and target one below the other. What does a model have to do to be right?",
    ),
    Exercise(
        "vocabulary",
        "The sentiment classifier does worse on new reviews than on those of the validation part.",
        "Change a word of a validation review. Which numbers of the training part move?",
    ),
)
