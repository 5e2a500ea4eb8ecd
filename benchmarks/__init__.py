"""Speed, measured side by side: each of ours next to a reference, in one run on one machine. `run.py` is the way in."""
