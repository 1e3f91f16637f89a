"""Models without features go through the one door: query vector times item vector gives the model's own scores."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.export import export_model
from feast_recsys.models.collaborative.als import AlsConfig, build_als, fit_als
from feast_recsys.models.collaborative.bpr import BprConfig, build_bpr, fit_bpr
from feast_recsys.models.collaborative.ease import EaseConfig, build_ease, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, build_item_knn, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, build_popularity, fit_popularity
from feast_recsys.models.collaborative.shared import kept_share
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.training.loop import Run

ITEMS, USERS = 25, 40
FITS = {
    "popularity": (fit_popularity, build_popularity, PopularityConfig()),
    "item_knn": (fit_item_knn, build_item_knn, ItemKnnConfig(k=6, shrinkage=1.0)),
    "ease": (fit_ease, build_ease, EaseConfig(regularization=2.0)),
    "als": (fit_als, build_als, AlsConfig(factors=6, regularization=0.5, alpha=8.0)),
    "als_ratings": (fit_als, build_als, AlsConfig(factors=6, regularization=0.5, alpha=4.0, ratings=True)),
    "bpr": (fit_bpr, build_bpr, BprConfig(factors=6, iterations=50)),
}
lists = st.lists(
    st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=ITEMS), min_size=1, max_size=5
)  # fmt: skip


def likes():
    """Rated likes with structure: users of three kinds, and items that some kinds prefer."""
    random = np.random.default_rng(7)
    chance = np.where(np.arange(USERS)[:, None] % 3 == np.arange(ITEMS) % 3, 0.5, 0.1)
    users, items = np.nonzero(random.random((USERS, ITEMS)) < chance)
    ratings = random.integers(1, 6, len(users))
    return Histories.from_pairs(users, items, ITEMS, ratings, size=USERS)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(_one_thread):
    return {name: fit(likes(), config, Run(seed=2)) for name, (fit, _, config) in FITS.items()}


@pytest.fixture(scope="module")
def encoders_of(models):
    return {name: model.encoders() for name, model in models.items()}


@pytest.fixture(scope="module", params=FITS)
def name(request):
    return request.param


def rated(histories, seed=0):
    ratings = np.random.default_rng(seed).uniform(0, 5, len(histories.items)).astype(np.float32)
    return dataclasses.replace(histories, ratings=ratings)


@settings(deadline=None, max_examples=60)
@given(lists=lists, seed=st.integers(0, 99))
def test_both_vectors_give_the_models_own_scores_and_lists(models, encoders_of, name, lists, seed):
    histories = rated(from_lists(lists, ITEMS), seed)
    users = np.arange(len(lists))
    exact, served = models[name].score(histories, users), encoders_of[name].score(histories, users)
    assert np.isfinite(served).all()
    np.testing.assert_allclose(served, exact, rtol=1e-4, atol=1e-4)
    for items, one, two in zip(lists, exact, served, strict=True):
        unseen = np.setdiff1d(np.arange(ITEMS), items)
        # The order is the same but for scores that are equal within rounding.
        order = unseen[np.argsort(-two[unseen], kind="stable")]
        assert (np.diff(one[order]) < 2e-4).all()


def test_padding_copies_and_unknown_items_do_not_count(models, name):
    query = models[name].encoders().query
    plain = torch.tensor([[3, 7, 0, 0, 0, 0]])
    other = torch.tensor([[0, 3, 7, 3, 0, 7]])
    ratings = (torch.tensor([[4.0, 2.0, 9.0, 9.0, 9.0, 9.0]]), torch.tensor([[9.0, 4.0, 2.0, 1.0, 9.0, 1.0]]))
    for one, two in (
        ((plain, ratings[0]), (other, ratings[1])),
        ((plain[:, :2], ratings[0][:, :2]), (plain, ratings[0])),
    ):
        torch.testing.assert_close(query(*one), query(*two), rtol=1e-5, atol=1e-5)


def test_an_empty_history_gives_what_is_popular(models, name):
    encoders = models[name].encoders()
    query = encoders.query(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4))
    counts = np.bincount(likes().items, minlength=ITEMS)
    np.testing.assert_allclose(query.numpy() @ encoders.vectors(ITEMS).T, np.log1p([counts, counts]), rtol=1e-5)


def test_an_unknown_item_scores_below_all_others(models, name):
    encoders, histories = models[name].encoders(), likes()
    rows, ratings = histories.padded(np.arange(USERS))
    queries = encoders.query(torch.from_numpy(rows), torch.from_numpy(ratings))
    everyone = torch.cat([queries, encoders.query(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1))])
    scores = everyone @ encoders.item(torch.arange(ITEMS + 1)).T
    assert (scores[:, :1] < scores[:, 1:]).all()


def test_a_kept_model_comes_back_from_config_and_weights(models, name):
    model, (_, build, config) = models[name], FITS[name]
    kept = json.loads(json.dumps(dataclasses.asdict(model.config)))
    again, encoders = build(ITEMS, type(config)(**kept)), model.encoders()
    again.query.load_state_dict(encoders.query.state_dict())
    again.item.load_state_dict(encoders.item.state_dict())
    assert np.array_equal(again.score(likes(), [0, 1, 2]), encoders.score(likes(), [0, 1, 2]))
    build(1, config)  # whatever the catalogue


class Query(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, history):
        return self.encoder(history)


class RatedQuery(nn.Module):
    """Lists are padded each for itself: ratings are brought to the length of the history."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, history, ratings):
        padded = torch.cat([ratings, torch.zeros(history.shape)], 1)[:, : history.shape[1]]
        return self.encoder(history, padded)


HISTORY = Input("history", "user:likes", Side.USER, DType.INT64, max_length=6, vocabulary="items.json")
RATINGS = Input("ratings", "user:ratings", Side.USER, DType.FLOAT32, max_length=6)
ITEM = Input("item", "entity:item", Side.ITEM, DType.INT64, vocabulary="items.json")


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease", "als_ratings", "bpr"])
def test_onnx_gives_the_same_scores(models, name, tmp_path):
    fit, _, config = FITS[name]
    # Two steps are no solution, but the graph of more steps is the same a few times over, and takes long to trace.
    model = fit(likes(), dataclasses.replace(config, steps=2), Run()) if name == "als_ratings" else models[name]
    encoders = model.encoders()
    takes_ratings = encoders.query.takes_ratings
    inputs = (HISTORY, RATINGS) if takes_ratings else (HISTORY,)
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, inputs, "query", "users"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (ITEM,), "vector", "items"),
    }
    keys = tuple(range(100, 100 + ITEMS))
    signature = Signature(name, Stage.RETRIEVAL, graphs, dimension=encoders.vectors(1).shape[1])
    modules = {
        Role.QUERY_ENCODER: (RatedQuery if takes_ratings else Query)(encoders.query),
        Role.ITEM_ENCODER: encoders.item,
    }
    export_model(modules, signature, {"items.json": Vocabulary(keys)}, tmp_path / name)
    _, loaded = load_model(tmp_path / name)
    histories = rated(from_lists([[3, 7, 1], [4], []], ITEMS))
    rows, ratings = histories.padded([0, 1, 2])
    feed = {"history": np.where(rows > 0, rows + 99, 0), **({"ratings": ratings} if takes_ratings else {})}
    queries = loaded[Role.QUERY_ENCODER.value].run(feed)
    vectors = loaded[Role.ITEM_ENCODER.value].run({"item": np.array(keys)})
    np.testing.assert_allclose(queries @ vectors.T, encoders.score(histories, [0, 1, 2]), rtol=1e-4, atol=1e-5)


# What is given up


def test_ease_of_full_rank_is_the_closed_form_and_of_lower_rank_says_what_it_keeps():
    users = np.arange(USERS)
    full = fit_ease(likes(), EaseConfig(2.0, rank=ITEMS), Run())
    assert full.facts == {"rank": ITEMS, "kept_top_50": 1.0}
    x = likes().matrix().toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(ITEMS))
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0.0)
    np.testing.assert_allclose(full.encoders().score(likes(), users), x @ b, rtol=1e-4, atol=1e-5)
    # No other four columns come closer to the scores of these users (Eckart and Young 1936).
    low = fit_ease(likes(), EaseConfig(2.0, rank=4), Run())
    left = np.linalg.svd(x @ b, compute_uv=False)[4:]
    error = np.linalg.norm(low.encoders().score(likes(), users) - x @ b)
    assert error == pytest.approx(np.sqrt((left**2).sum()), rel=1e-3)


def test_the_share_kept_is_that_of_sets_of_unseen_items():
    histories = from_lists([[0], []], 4)
    exact = np.array([[9.0, 3, 2, 1], [4, 3, 2, 1]], np.float32)
    other = np.array([[0.0, 1, 3, 2], [4, 3, 2, 1]], np.float32)
    assert kept_share(exact, other, histories, 1) == 0.5
    assert kept_share(exact, other, histories, 2) == 0.75
    assert kept_share(exact, other, histories) == 1.0


def test_als_takes_a_like_into_account_at_once(models):
    encoders = models["als"].encoders()
    before, after = (encoders.score(from_lists([items], ITEMS), [0])[0] for items in ([0], [0, 4]))
    alike = np.flatnonzero(np.arange(ITEMS) % 3 == 1)
    assert (after - before)[alike].mean() > 0.05 > (after - before)[np.arange(ITEMS) % 3 == 2].mean()
