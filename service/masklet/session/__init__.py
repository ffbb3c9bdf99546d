"""One stream: its protocol, its queue and drop policy, its place in the registry."""
