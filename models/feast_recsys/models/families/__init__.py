"""Families of retrieval models by name, and a model of any of them trained again on a part of the users."""
