"""Exercises of lesson 17."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "batch",
        "The exported file works in the notebook and fails in the service.",
        "The example has one batch size. Which argument of torch.onnx.export allows any other?",
    ),
    Exercise(
        "verify",
        "The test of the export passes, but one customer in a thousand gets nonsense.",
        "A mean hides one wrong sample among many. And what do comparisons with NaN return?",
    ),
)
