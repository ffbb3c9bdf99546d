"""Where sessions' memory banks live, and frames become masks."""
