"""Exercises of lesson 14."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "scaler",
        "The score over the folds is better than the score on new data.",
        "Change a held-out sample by hand. Which numbers of the training part move, that should know nothing of it?",
    ),
    Exercise(
        "interval",
        "Ten times ten folds find a difference between two equal models every other time.",
        "The folds share training samples, so their scores are no independent draws. Equation in the lesson's guide.",
    ),
)
