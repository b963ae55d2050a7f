"""Statistical tests, intervals and resampling: pure functions, without torch."""
