"""masklet: SAM 2 masks for live video over gRPC."""

__version__ = "0.1.0"
