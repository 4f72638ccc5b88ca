"""The kernels in plain Python: the readable specification, the oracle of tests, the baseline of benchmarks."""
