"""The learning-rate law: measurements, optima, the fit, its files and its figure."""
