"""Replays recorded answers of the reference through the session and backend layers."""
