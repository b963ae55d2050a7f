"""Exercises of lesson 12."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "shares",
        "Two processes report another test accuracy than one.",
        "Add up over the ranks how many samples are scored. What is done to make the shares equally long?",
    ),
    Exercise(
        "weights",
        "The last batch of an epoch pulls the weights elsewhere than in one process.",
        "DDP takes the mean over the ranks. When is a mean of means the mean over all samples, and when is it not?",
    ),
)
