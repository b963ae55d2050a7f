"""Lesson 13: manual optimization; `nonsaturating`, `wgan_gp` and `r3gan` hold the models, `turns` how they step."""
