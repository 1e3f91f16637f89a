"""The `implicit` library: loaded when it is needed, held to one thread and a seed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from scipy import sparse

from feast_recsys.bundle.errors import InvalidArgument, JobFailed
from feast_recsys.models.data.histories import Floats
from feast_recsys.models.training.loop import Run


def fit_with_library(module: str, name: str, matrix: Any, run: Run, **options: Any) -> tuple[Floats, Floats]:
    """Fits one of its models on the CPU.

    Args:
        module: Below `implicit`.
        name: Of the factory in it.
        matrix: scipy sparse [U, n] float32, above 0 where the user has the item.
        run: Its seed and progress.
        options: Of the model.

    Returns:
        Factors of the items [n, d] and of the users [U, d], float32, of the library's own width d.

    Raises:
        InvalidArgument: the matrix is empty.
        JobFailed: the library is missing, or its factors are not finite.
    """
    if not matrix.nnz:
        raise InvalidArgument("there is nothing to learn from: no user has any item", field="histories")
    try:
        models = importlib.import_module(f"implicit.{module}")
        failure = importlib.import_module("implicit.recommender_base").ModelFitError
        threads = importlib.import_module("threadpoolctl")
    except ImportError as error:
        raise JobFailed(
            f"this model needs the library implicit ({error}); pip install 'feast-recsys[train]'", field="family"
        ) from error
    iterations = int(options["iterations"])
    users = sparse.csr_matrix(matrix)  # the library knows no sparse arrays
    # BLAS with threads of its own is slower here, and the library warns of it.
    with threads.threadpool_limits(1, "blas"):
        model = getattr(models, name)(use_gpu=False, num_threads=1, random_state=run.seed, **options)
        try:
            model.fit(users, show_progress=False, callback=lambda done, *_: run.progress.progress(done + 1, iterations))
        except failure as error:
            raise JobFailed(
                f"implicit.{name} gives factors that are not finite; raise regularization, or lower the learning rate"
            ) from error
    return np.asarray(model.item_factors, np.float32), np.asarray(model.user_factors, np.float32)
