"""What a positive is told apart from: items drawn from the catalogue, the batch's own, mined ones; and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.data.histories import Ints

Shares = npt.NDArray[np.float64]
Correction = Literal["none", "negatives", "all"]

LEAST_LIKES = 1e-3  # of an item that nobody had: its probability must have a logarithm


@dataclass(frozen=True)
class Sampler:
    """Draws items with replacement: some evenly from the catalogue, some as often as they are liked.

    Both at once are the mixed negatives of Yang et al. (2020), "Mixed Negative Sampling for Learning Two-tower Neural
    Networks in Recommendations".

    Attributes:
        liked: [n] share of the likes that each item has, above 0; sums to 1.
        uniform, popular: Items drawn evenly, and by `liked`.
    """

    liked: Shares
    uniform: int
    popular: int

    @classmethod
    def of_counts(cls, counts: npt.ArrayLike, *, uniform: int, popular: int) -> Sampler:
        """From the likes of each item; an item without likes counts as a thousandth of one.

        Raises:
            InvalidArgument: a number below 0, or an empty catalogue.
        """
        likes = np.maximum(np.asarray(counts, np.float64), LEAST_LIKES)
        if not len(likes):
            raise InvalidArgument("the catalogue has no items", field="counts")
        if uniform < 0 or popular < 0:
            raise InvalidArgument(f"numbers of negatives must be at least 0, not {uniform}, {popular}", field="uniform")
        return cls(likes / likes.sum(), uniform, popular)

    def draw(self, random: np.random.Generator) -> Ints:
        """[uniform + popular] items."""
        evenly = random.integers(0, len(self.liked), self.uniform)
        where = np.searchsorted(np.cumsum(self.liked), random.random(self.popular), side="right")
        # The last sum may fall short of 1 by rounding.
        return np.concatenate([evenly, np.minimum(where, len(self.liked) - 1)])

    def expected(self, items: Ints, in_batch: int) -> Shares:
        """[m] how often each of some items stands in a column of the batch, on average.

        Args:
            items: [m] positions.
            in_batch: Likes whose items are columns beside the drawn ones. They come as often as they are liked.
        """
        result: Shares = (in_batch + self.popular) * self.liked[items] + self.uniform / len(self.liked)
        return result


@dataclass(frozen=True)
class Columns:
    """The items of a batch that every query is scored against.

    Attributes:
        items: [C] int64; an item may occur more than once.
        log_expected: [C] float32, log of how often each occurs on average; zeros where no correction is wanted.
    """

    items: Tensor
    log_expected: Tensor


def sampled_softmax(
    queries: Tensor,
    positives: Tensor,
    owners: Tensor,
    targets: Tensor,
    vectors: Tensor,
    columns: Columns,
    *,
    temperature: float,
    own: Tensor | None = None,
    hard: Tensor | None = None,
) -> Tensor:
    """Mean softmax cross-entropy of each target against the columns, corrected for how those were drawn.

    With s(i, j) = q_i . v_j / temperature, the loss of target t of query i is

        log(exp(s(i, t) - own_t) + sum over columns j of exp(s(i, j) - log_expected_j) + hard ones) - (s(i, t) - own_t)

    A column is drawn log_expected-fold on average, so the sum is that over the whole catalogue in expectation
    (Bengio and Senecal 2008). With `own` the target is taken as one of the drawn columns, as for in-batch negatives
    in Yi et al. (2019), "Sampling-Bias-Corrected Neural Modeling"; without it as what it is, certain to be there.
    An accidental hit, a column with any of the query's targets, is no negative and is left out.

    Args:
        queries: [Q, d].
        positives: [P, d] vectors of the targets.
        owners: [P] int64, the query of each target.
        targets: [P] int64, the item of each.
        vectors: [C, d] vectors of the columns.
        columns: Which items they are.
        temperature: Above 0.
        own: [P] log of the expected count of each target; None for no correction of targets.
        hard: [Q, h, d] further negatives of each query, which must not be among its positives. They are certain,
            so their terms need no correction.

    Returns:
        Scalar; 0 where there is nothing to tell apart.
    """
    # Under autocast the products are of half precision, whose range is too small for what follows.
    positive = _full((queries[owners] * positives).sum(-1)) / temperature  # [P]
    if own is not None:
        positive = positive - own
    # Not -inf: the gradient of a sum over nothing but -inf is NaN.
    # The [Q, C] matrix is most of a step's time: what follows works in place, and the smaller matrix is scaled.
    logits = _full((queries / temperature) @ vectors.T).sub_(columns.log_expected)
    nothing = torch.finfo(logits.dtype).min
    row, column = _hits(owners, targets, columns.items)
    logits.index_put_((row, column), logits.new_tensor(nothing))
    if hard is not None:
        certain = _full(torch.einsum("qd,qhd->qh", queries, hard)) / temperature
        logits = torch.cat([logits, certain], dim=-1)
    others = torch.logsumexp(logits, dim=-1) if logits.shape[1] else logits.new_full((len(queries),), nothing)
    return functional.softplus(others[owners] - positive).mean()


def _full(products: Tensor) -> Tensor:
    """At least in single precision."""
    return products.to(torch.promote_types(products.dtype, torch.float32))


def _hits(owners: Tensor, targets: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every column that holds a target of its row. By search: a [P, C] mask would cost too much."""
    ordered, order = torch.sort(columns, stable=True)
    low = torch.searchsorted(ordered, targets)
    counts = torch.searchsorted(ordered, targets, right=True) - low
    row = torch.repeat_interleave(owners, counts)
    first = torch.repeat_interleave(low - (counts.cumsum(0) - counts), counts)
    return row, order[torch.arange(len(row), device=row.device) + first]


def top_negatives(scores: Tensor, count: int, skip: int = 0) -> Tensor:
    """[m, count] the items that a model likes best without reason, best first, after the first `skip`.

    Args:
        scores: [m, n]; -inf for what may not be a negative, the query's positives.
        count: At least 1.
        skip: The very best are often positives that nobody has found yet.

    Raises:
        InvalidArgument: a row has fewer items left than that.
    """
    usable = torch.isfinite(scores).sum(-1)
    if int(usable.min()) < count + skip:
        raise InvalidArgument(
            f"a query has {int(usable.min())} items that may be hard negatives, {count + skip} are needed; "
            "set hard_pool or hard_skip lower",
            field="hard_pool",
        )
    return torch.topk(scores, count + skip, dim=-1).indices[:, skip:]
