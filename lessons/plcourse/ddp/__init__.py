"""Lesson 12: distributed training; `model` has ImageClassifier, `networks` ResNet and MLP, `data` ImageData."""
