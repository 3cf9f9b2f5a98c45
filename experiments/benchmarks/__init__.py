"""Measurements of speed; see `experiments.benchmarks.training`."""
