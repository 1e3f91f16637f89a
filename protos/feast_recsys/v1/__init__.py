"""The wire contract: generated messages and service stubs of `feast_recsys.v1`."""
