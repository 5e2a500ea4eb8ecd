"""Training: one Lightning module, one optimiser, one function a stage. `stages.run_stage` is the way in."""
