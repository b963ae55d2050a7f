"""Exercises of lesson 17."""

from plcourse.exercises import Exercise

EXERCISES = (
    Exercise(
        "batch",
        "The exported file works in the notebook and fails in the service.",
        "The example has one batch size. Which argument of torch.onnx.export says that it may be any?",
    ),
    Exercise(
        "verify",
        "The test of the export passes, and one customer in a thousand gets nonsense.",
        "A mean hides one wrong sample among many. What is a NaN larger than?",
    ),
)
