"""Frames and masks as they travel: encoded forms to arrays and back."""
