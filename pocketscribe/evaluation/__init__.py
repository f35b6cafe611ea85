"""Word error rates with confidence intervals, speed, memory, size, and reports over runs."""
