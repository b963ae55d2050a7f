"""Exercises of lesson 13."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "turns",
        "The generator's gradient mixes two opposite goals.",
        "Print the generator's gradients right after the discriminator's backward pass. Should there be any?",
    ),
    Exercise(
        "penalty",
        "The gradient penalty is part of the loss, but the critic's slope keeps growing.",
        "What can be differentiated a second time? Then compare one sample's slope with that of the batch.",
    ),
)
