"""Speed compared with other libraries; see `experiments.benchmarks.peers.__main__`."""
