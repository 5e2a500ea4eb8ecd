"""MLflow and other trackers: the store, what is logged, when, and the dashboard."""
