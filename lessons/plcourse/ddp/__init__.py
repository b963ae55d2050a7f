"""Lesson 12: distributed training; `model` has ImageClassifier, ResNet and MLP, `data` has ImageData."""
