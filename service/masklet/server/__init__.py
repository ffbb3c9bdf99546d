"""The gRPC head: protobuf to nouns and back, errors to status, start, drain and stop."""
