"""From one ranker graph to three: what the user, the item and both together determine."""
