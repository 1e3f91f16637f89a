"""Two-tower retrieval and Wide & Deep ranking in PyTorch, trained from the settings of any Feast repository.

`retrieval.train_retrieval` and `ranking.train_ranking` give checkpoints, `checkpoint` keeps them.
"""
