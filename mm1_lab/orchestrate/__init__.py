"""What is missing, and how it gets done: plan, Ray Tune runner, worker, display, MLflow recorder."""
