"""Lesson 19: character-level language models and sentiment analysis on one corpus."""
