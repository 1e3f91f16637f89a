"""After validation has chosen, models learn from it too, and never from the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.shop import build_shop

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.signature import Role
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.training_data import DataConfig, TrainingData, load_data, with_validation
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.refit import refit_ranker, refit_retrieval
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.models.two_tower.towers import TwoTowerConfig
from feast_recsys.models.two_tower.train import train_retrieval


@dataclass(frozen=True)
class Chosen:
    data: TrainingData
    retrieval: Checkpoint
    ranking: Checkpoint


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chosen]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shop = build_shop(tmp_path_factory.mktemp("shop"), DType.STRING)
    data = load_data(shop.repo, "shop", DataConfig(refit=True))
    retrieval = train_retrieval(shop.repo, "shop", config=TwoTowerConfig(epochs=3), data=data)
    ranking = train_ranking(shop.repo, "shop", retrieval, config=WideDeepConfig(epochs=2), data=data)
    yield Chosen(data, retrieval, ranking)
    torch.set_num_threads(threads)


def weights(checkpoint: Checkpoint) -> list[torch.Tensor]:
    return [w.clone() for module in checkpoint.modules.values() for w in module.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def refitted(chosen: Chosen, data: TrainingData) -> list[torch.Tensor]:
    retrieval = refit_retrieval(chosen.retrieval, data, Run())
    return weights(retrieval) + weights(refit_ranker(chosen.ranking, retrieval, data, Run()))


def with_other_items(data: TrainingData, part: Part) -> TrainingData:
    """The same moments of a part, with other items at them."""
    items = data.events.items.copy()
    rows = np.flatnonzero(data.events.parts == part)
    items[rows] = (items[rows] + 1) % data.items
    return replace(data, events=replace(data.events, items=items))


def test_what_was_validation_is_learned_from_and_the_test_is_not(chosen: Chosen) -> None:
    once = refitted(chosen, chosen.data)
    assert same(once, refitted(chosen, chosen.data))
    assert same(once, refitted(chosen, with_other_items(chosen.data, Part.TEST)))
    assert not same(once, refitted(chosen, with_other_items(chosen.data, Part.VALIDATION)))


def test_there_is_more_to_learn_from_and_nothing_left_to_choose_by(chosen: Chosen) -> None:
    whole, data = with_validation(chosen.data), chosen.data
    likes = data.events.positive & (data.events.parts != Part.TEST)
    assert len(whole.training.items) == likes.sum() > len(data.training.items)
    assert len(whole.ranking) > len(data.ranking)
    assert not (whole.events.parts == Part.VALIDATION).any()
    np.testing.assert_array_equal(whole.events.parts == Part.TEST, data.events.parts == Part.TEST)
    # Every moment was joined.
    np.testing.assert_array_equal(whole.state_keys[whole.states(whole.ranking)] // 2**40, whole.ranking.users)


def test_a_refitted_model_is_the_chosen_one_with_other_weights(chosen: Chosen) -> None:
    retrieval = refit_retrieval(chosen.retrieval, chosen.data, Run())
    ranking = refit_ranker(chosen.ranking, retrieval, chosen.data, Run())
    for before, after in ((chosen.retrieval, retrieval), (chosen.ranking, ranking)):
        assert before.signature.graphs == after.signature.graphs
        assert (before.config, before.metrics, before.vocabularies) == (after.config, after.metrics, after.vocabularies)
        assert not same(weights(before), weights(after))
        facts = after.signature.metadata["training"]
        assert facts == {**before.signature.metadata["training"], **facts}
        assert facts["refit"] is True
    old, new = chosen.ranking.modules[Role.RANKER], ranking.modules[Role.RANKER]
    assert (float(old.scale), float(old.shift)) == (float(new.scale), float(new.shift))


def test_data_without_the_moments_of_validation_is_refused(chosen: Chosen, tmp_path: Path) -> None:
    data = replace(chosen.data, config=DataConfig())
    with pytest.raises(InvalidArgument, match="without the moments of validation"):
        refit_retrieval(chosen.retrieval, data, Run())
