"""The kinds of stages: configuration, parameters, cost and workers of each, by the part of the model that it makes.

mm1_lab/train/stages.py defines how each kind that trains is run.
"""
