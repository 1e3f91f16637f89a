"""How good a recommender is: metrics, baselines and the protocol that compares them on one split."""
