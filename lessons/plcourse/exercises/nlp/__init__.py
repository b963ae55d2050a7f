"""Exercises of lesson 19."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "windows",
        "The language model has a loss near zero, but writes the same letter again and again.",
        "Print input and target one below the other. What does a model have to do to be right?",
    ),
    Exercise(
        "vocabulary",
        "The sentiment classifier does worse on new reviews than on those of the validation split.",
        "Change a word of a validation review. Which numbers of the training split change?",
    ),
)
