"""The formats between batch work and serving: signatures, snapshots, indexes, bundles.

Nothing here knows Feast, torch or gRPC. Every other room may import this one.
"""
