//! Intervals and tests: user-clustered paired bootstrap, Holm, seeds. Knows nothing of what the numbers mean.
