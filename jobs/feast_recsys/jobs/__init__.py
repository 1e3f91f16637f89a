"""Batch work between trained models and serving: materialization, and the check of everything before it.

Talks to Feast through `features`, and never imports torch or grpc.
"""
