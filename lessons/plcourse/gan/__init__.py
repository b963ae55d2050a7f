"""Lesson 13: manual optimization with GANs; `manual_step` has the mechanism, `adversarial` what the models share."""
