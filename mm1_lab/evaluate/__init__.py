"""Evaluation: benchmarks, few-shot prompts, greedy generation, metrics; `run.evaluate` is the stage."""
