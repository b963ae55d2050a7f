"""Exercises of lesson 13."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "turns",
        "The generator is pulled two ways at once.",
        "Print the generator's gradients right after the discriminator's backward pass. Should there be any?",
    ),
    Exercise(
        "penalty",
        "The gradient penalty is logged, and yet the critic's slope grows and grows.",
        "What can be differentiated a second time? Then compare one sample's slope with that of the batch.",
    ),
)
