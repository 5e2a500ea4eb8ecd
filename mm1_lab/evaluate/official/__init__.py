"""Readers of published benchmarks: the files that everybody downloads, to `Item`s."""
