"""Exported models that do not fit the Feast repository are refused before any work, by model, input and feature."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import graphs, warehouse

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidRepository, InvalidSettings, InvalidSignature
from feast_recsys.bundle.signature import Input, Role, Side, Stage
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF


def export_item_encoder(folder, *specs, dimension=warehouse.DIMENSION, vocabularies=None):
    """A retrieval model with other item inputs."""
    takes = warehouse.inputs(True)
    known = warehouse.vocabularies(True) | (vocabularies or {})
    graphs.export(
        folder / "models/things_retrieval", "things_retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: takes[Role.QUERY_ENCODER], Role.ITEM_ENCODER: specs}, known, dimension=dimension,
    )  # fmt: skip


def item_input(name, feature, dtype, **rest):
    rest = {"default": dtype.zero, "pad": dtype.zero, **rest}
    return Input(name, feature, Side.ITEM, dtype, **rest)


@pytest.mark.parametrize("stage", ["retrieval", "ranking"])
def test_a_missing_model_names_recommender_folder_and_command(tmp_path, stage):
    repo = warehouse.build(tmp_path)
    (tmp_path / f"models/things_{stage}/model.yaml").unlink()
    with pytest.raises(InvalidRepository) as caught:
        materialize(repo, as_of=AS_OF)
    message = caught.value.message
    assert f"recommender 'things' has no exported {stage} model at {tmp_path}/models/things_{stage}" in message
    assert f"run `feast-recsys export --recommender things --stage {stage}`" in message
    assert caught.value.field == f"recsys.recommenders.things.{stage}.model"


def test_a_model_of_another_stage_is_refused(tmp_path):
    settings = {"recommenders": {"things": {"retrieval": {"model": "things_ranking"}}}}
    repo = warehouse.build(tmp_path, settings=settings)
    with pytest.raises(
        InvalidRepository, match="holds a ranking model, but recommender 'things' names it for retrieval"
    ):
        materialize(repo, as_of=AS_OF)


def test_a_name_that_can_not_be_a_folder_is_refused(tmp_path):
    repo = warehouse.build(tmp_path, settings={"recommenders": {"../things": {}}})
    with pytest.raises(InvalidSettings, match=r"'\.\./things' can't be the name of a folder"):
        materialize(repo, as_of=AS_OF)


YEAR = item_input("year", "catalogue:year", DType.INT64)
MISFITS = [
    (replace(YEAR, feature="catalogue:colour"), "'year': feature view 'catalogue' has no feature 'colour'; it has"),
    (replace(YEAR, feature="stock:year"), "input 'year': the Feast repository has no feature view 'stock'; it has"),
    (replace(YEAR, feature="profile:age"), "profile:age is a feature of the user, the signature says item"),
    (replace(YEAR, feature="catalogue:price"), "catalogue:price is float32 in Feast, int64 in the signature"),
    (replace(YEAR, feature="catalogue:sizes", dtype=DType.FLOAT32), "catalogue:sizes is a list in Feast, a single"),
    (replace(YEAR, max_length=3), "catalogue:year is a single value in Feast, a list in the signature"),
    (replace(YEAR, feature="entity:item_id"), "it is bound to entity:item_id, but the item's join key is 'sku'"),
    (replace(YEAR, feature="entity:sku"), "entity:sku is string in Feast, int64 in the signature"),
    (replace(YEAR, feature=warehouse.VECTORS, dtype=DType.FLOAT32, max_length=4), "holds item vectors, which can't be"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "message"), MISFITS)
def test_an_input_that_feast_can_not_fill_is_named(tmp_path, spec, message):
    repo = warehouse.build(tmp_path)
    export_item_encoder(tmp_path, spec)
    with pytest.raises(InvalidRepository, match=message.replace("(", r"\(")):
        materialize(repo, as_of=AS_OF)


def test_a_feature_whose_view_can_not_be_served_says_why(tmp_path):
    repo = warehouse.build(tmp_path)
    popularity = repo.store.get_feature_view("popularity")
    popularity.online = False
    repo.store.apply([popularity])
    with pytest.raises(InvalidRepository, match="'popularity' is declared online=False"):
        materialize(repo, as_of=AS_OF)


def test_a_vocabulary_of_another_type_is_named(tmp_path):
    repo = warehouse.build(tmp_path)
    (tmp_path / "models/things_retrieval/tags.json").write_text("[1, 2]")
    with pytest.raises(
        InvalidSignature, match=r"input 'tags': tags\.json holds keys of type int64, the input is string"
    ):
        materialize(repo, as_of=AS_OF)
    (tmp_path / "models/things_retrieval/tags.json").unlink()
    with pytest.raises(CorruptArtifact, match=r"input 'tags': vocabulary .*tags\.json can't be read"):
        materialize(repo, as_of=AS_OF)
