"""Speed benchmarks: each compares this project with a reference, in one run on one machine. Entry point: `run.py`."""
