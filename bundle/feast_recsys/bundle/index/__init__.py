"""Nearest items to a query vector, by inner product."""
