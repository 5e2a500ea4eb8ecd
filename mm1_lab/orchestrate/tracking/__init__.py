"""MLflow: the store, what is logged, when, and the dashboard."""
