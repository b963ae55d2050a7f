"""Lesson 12: distributed training; `model` holds ImageClassifier, ResNet and MLP, `data` holds ImageData."""
