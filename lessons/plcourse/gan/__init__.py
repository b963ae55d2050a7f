"""Lesson 13: manual optimization; `nonsaturating`, `wgan_gp` and `r3gan` hold GAN, WGANGP and R3GAN, `turns` how they step."""
