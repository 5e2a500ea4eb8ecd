"""Folders of weights, read without building a model: those of stages, and pre-trained ones, here or on the hub."""
