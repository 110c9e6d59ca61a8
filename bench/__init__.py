"""The benchmarks: ours and its peers, side by side, in one run (see README.md)."""
