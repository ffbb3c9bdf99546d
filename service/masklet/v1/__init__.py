"""Generated from protos/masklet/v1. Do not edit."""
