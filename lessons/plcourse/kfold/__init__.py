"""Lesson 14: cross-validation as a fit loop; `loop` has KFoldLoop, `fold_trainer` trains one fold."""
