"""The server: an engine that knows no transport, gRPC in front of it, bundles and read plans behind it."""
