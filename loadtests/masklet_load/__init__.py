"""Load on a masklet service: open-loop cameras over real gRPC, latency from the due time, capacity at an SLO."""
