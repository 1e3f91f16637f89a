"""Recommenders in PyTorch, trained from the settings of any Feast repository.

`train` gives checkpoints of the families that the settings name, `refit` trains them again on all that is not test, and
`load` reads checkpoints back. The rooms, each of which imports those before it only: `data` and `training`; `inputs`;
`retrieval`, what all retrieval models share; `two_tower`, `autoencoders` and `collaborative`; `content`; `families`,
all of these by name; `ranking`.
"""
