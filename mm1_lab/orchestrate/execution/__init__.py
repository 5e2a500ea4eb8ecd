"""Runs a plan: executors, the process that runs a task, worker groups, and what a user sees meanwhile."""
