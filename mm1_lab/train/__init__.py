"""Training: one Lightning module, one optimiser, one function per kind of stage. Entry point: `stages.run_stage`."""
