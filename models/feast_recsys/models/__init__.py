"""Two-tower retrieval and Wide & Deep ranking in PyTorch, trained from the settings of any Feast repository.

`train` gives checkpoints of the families that the settings name, and `load` reads them back.
"""
