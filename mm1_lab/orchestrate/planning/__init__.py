"""What would run: a request resolved, the plan of its tasks, and what they cost."""
