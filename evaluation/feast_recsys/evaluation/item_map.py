"""A map of item vectors: near on paper what is near in the model. By t-SNE (van der Maaten and Hinton 2008)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.progress import SILENT, Reporter

Matrix = npt.NDArray[np.float32]

STEPS = 350
_EARLY = 100  # steps with exaggerated attraction


def principal_components(vectors: Matrix, dimensions: int) -> Matrix:
    """[n, dimensions] float32: the coordinates along the directions of largest variance, each of them signed so that
    its largest entry is positive; zeros where there are fewer directions."""
    centred = vectors - vectors.mean(axis=0, keepdims=True)
    u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    found = np.zeros((len(vectors), dimensions), np.float32)
    kept = min(dimensions, u.shape[1])
    found[:, :kept] = u[:, :kept] * s[:kept]
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(dimensions)])
    return found * np.where(signs == 0, 1, signs).astype(np.float32)


def layout(vectors: Matrix, *, perplexity: float = 30.0, steps: int = STEPS, progress: Reporter = SILENT) -> Matrix:
    """Positions of items in the plane: exact t-SNE from the first principal components, the same each time.

    Distances are those of the directions of the vectors, since the length of an item vector mostly says how popular
    the item is. Time and memory go with n^2: some seconds for 1,500 items.

    Args:
        vectors: [n, d] float32, finite.
        perplexity: About how many neighbours count; at most a third of n.
        steps: Of gradient descent.
        progress: Hears of steps.

    Returns:
        [n, 2] float32. For fewer than 5 items, principal components.
    """
    n = len(vectors)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if n < 5:
        return principal_components(unit, 2)
    wanted = _affinities(unit, min(perplexity, (n - 1) / 3))
    y = principal_components(unit, 2)
    y = (y / max(float(y[:, 0].std()), 1e-12) * 1e-2).astype(np.float32)
    velocity, gain, rate = np.zeros_like(y), np.ones_like(y), max(n / 20, 2.0)
    for step in range(steps):
        pull = 12.0 if step < _EARLY else 1.0
        near = 1 / (1 + _distances(y))
        np.fill_diagonal(near, 0)
        # (p - q) near, with q = near / sum of near
        force = (pull * wanted - near / near.sum()) * near
        gradient = 4 * (force.sum(axis=1, keepdims=True) * y - force @ y)
        gain = np.where(np.sign(gradient) == np.sign(velocity), gain * 0.8, gain + 0.2).clip(min=0.01)
        velocity = (0.5 if step < _EARLY else 0.8) * velocity - rate * gain * gradient
        y = y + velocity
        y = (y - y.mean(axis=0)).astype(np.float32)
        progress.progress(step + 1, steps)
    return y


def _affinities(unit: Matrix, perplexity: float) -> Matrix:
    """[n, n] symmetric probabilities of t-SNE: each row's entropy is the logarithm of the perplexity."""
    distances = _distances(unit).astype(np.float64)
    np.fill_diagonal(distances, np.inf)
    low, high = np.full(len(unit), 1e-3), np.full(len(unit), 1e6)
    for _ in range(30):  # bisection of the logarithm of each row's precision
        beta = np.sqrt(low * high)
        weights = np.exp(-(distances - distances.min(axis=1, keepdims=True)) * beta[:, None])
        p = weights / weights.sum(axis=1, keepdims=True)
        entropy = -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
    return np.asarray((p + p.T) / (2 * len(unit)), np.float32)


def _distances(points: Matrix) -> Matrix:
    squares = (points**2).sum(axis=1)
    found: Matrix = np.maximum(squares[:, None] + squares[None, :] - 2 * (points @ points.T), 0)
    return found
