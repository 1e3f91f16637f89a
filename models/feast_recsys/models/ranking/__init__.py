"""Wide & Deep ranking: crosses and tower, candidates to learn from, optimisers, calibration, warm start."""
