"""Losses, simulated clicks, synthetic video, datasets, evaluation; nothing else in the package imports it."""
