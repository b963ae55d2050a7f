"""Exercises of lesson 14."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "scaler",
        "The score over the folds is better than the score on new data.",
        "Change a held-out sample. Which numbers of the training split change, although they should not depend on it?",
    ),
    Exercise(
        "interval",
        "Ten times ten folds find a difference between two equal models in half of all trials.",
        "Folds share training samples, so their scores are not independent. The guide has the equation.",
    ),
)
