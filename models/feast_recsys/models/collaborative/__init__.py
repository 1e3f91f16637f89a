"""Models without features, fitted on who had what: popularity, item-kNN, EASE, implicit ALS, BPR.

Each module has a config, `fit_*` and `build_*`. A fitted model scores exactly, for comparisons, and gives encoders, so
that it is served like any other retrieval model; see `shared.Model`.
"""
