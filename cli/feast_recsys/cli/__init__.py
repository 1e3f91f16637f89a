"""The `feast-recsys` command: one file a command, heavy imports inside."""
