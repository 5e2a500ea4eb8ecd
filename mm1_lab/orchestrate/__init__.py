"""Plans what is missing and runs it: plan, Ray Tune runner, worker, display, MLflow logger."""
