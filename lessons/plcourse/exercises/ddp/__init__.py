"""Exercises of lesson 12."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "shares",
        "Two processes report a different test accuracy than one.",
        "Add up the samples that the ranks score. How do the shares become equally long?",
    ),
    Exercise(
        "weights",
        "The last batch of an epoch changes the weights differently than in one process.",
        "DDP averages over the ranks. When is a mean of means the mean over all samples, and when is it not?",
    ),
)
