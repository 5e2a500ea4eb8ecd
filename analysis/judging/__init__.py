"""From results to verdicts: claims, lessons, looks at a growing study, and whether the base can be trusted."""
