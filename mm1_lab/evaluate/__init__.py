"""Evaluation: benchmarks, few-shot prompts, greedy generation and metrics; `run.evaluate` runs the stage."""
