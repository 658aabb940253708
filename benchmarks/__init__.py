"""Benchmarks: ratios in one run, never a timed test. `make bench`, or `python -m benchmarks rounds latency`."""
