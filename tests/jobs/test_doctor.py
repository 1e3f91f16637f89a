"""`doctor` finds nothing in a healthy repository, everything in a sick one, and never falls ill itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from feast import FeatureService
from support import warehouse
from support.feast_repo import at
from torch import nn

from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Role, Signature, Stage
from feast_recsys.exporters.export import export_model
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs import check_feast
from feast_recsys.jobs.doctor import Finding, examine, examine_folder
from feast_recsys.jobs.pipeline import materialize

CAPS = ["catalogue:tags", "catalogue:price", "profile:age", "catalogue:nothing"]
REGISTRY = {"path": "registry.db", "cache_ttl_seconds": 0, "serve_features_while_materializing": True}


def healthy(folder, **rest):
    return warehouse.build(folder, configuration={"registry": REGISTRY} | rest.pop("configuration", {}), **rest)


def sick(findings):
    return [finding for finding in findings if finding.severity != "ok"]


def said(findings, severity, subject, message):
    """Whether there is such a finding; shows all of them if not."""
    found = [f for f in findings if f.severity == severity and f.subject == subject and message in f.message]
    assert found, "\n".join(f"{f.severity} {f.subject}: {f.message}" for f in sick(findings))
    return found[0]


def edit_yaml(path, edit):
    document = yaml.safe_load(path.read_text())
    edit(document)
    path.write_text(yaml.safe_dump(document))


@pytest.mark.parametrize("strings", [True, False], ids=["string ids", "integer ids"])
def test_a_healthy_repository_has_no_problems(tmp_path, redis_or_none, strings):
    interactions = {"path": "interactions.parquet", "timestamp": "at"}
    repo = healthy(tmp_path, strings=strings, redis=redis_or_none, settings={"interactions": interactions})
    ids = warehouse.item_ids(strings)
    pq.write_table(
        pa.table({"member": ["u1"], warehouse.ITEM_KEY: ids[:1], "at": [at(0)]}), tmp_path / "interactions.parquet"
    )
    materialize(repo, as_of=warehouse.AS_OF)
    findings = examine_folder(tmp_path)
    assert sick(findings) == []
    subjects = {finding.subject for finding in findings}
    assert {"recsys", "registry", "recsys.user", "recsys.item", "recsys.catalogue", "recsys.interactions", "bundle",
            "things_retrieval", "things_ranking", "profile", "catalogue"} <= subjects  # fmt: skip


def test_before_the_first_materialization_there_is_only_that_to_do(tmp_path):
    healthy(tmp_path)
    problems = sick(examine_folder(tmp_path))
    assert {finding.severity for finding in problems} == {"warning"}
    assert {finding.remedy for finding in problems} == {"run `feast-recsys materialize`"}
    assert {finding.subject for finding in problems} >= {"bundle"}


def test_every_problem_is_reported_at_once(tmp_path):
    repo = healthy(
        tmp_path,
        configuration={"entity_key_serialization_version": 3},
        settings={
            "interactions": {"path": "nowhere.parquet"},
            "serving": {"stale": {"nobody": "fail"}},
            "recommenders": {
                "things": {
                    "retrieval": {"vectors": warehouse.VECTORS, "query": "no_service", "history": "history:nothing"},
                    "seen": ["profile:age", "history:gone"],
                    "title": "catalogue:tags",
                    "reranking": {"caps": [{"key": key, "max_items": 1} for key in CAPS]},
                },
                "others": {"retrieval": {"model": "others_model"}, "ranking": None},
            },
        },
    )
    profile = repo.store.get_feature_view("profile")
    profile.ttl = timedelta(days=1)
    repo.store.apply([profile])

    def spoil(document):
        takes = document["graphs"]["item_encoder"]["inputs"]
        takes[1]["feature"] = "catalogue:colour"
        takes[2]["feature"] = "catalogue:title"
        document["graphs"]["query_encoder"]["feature_service"] = "gone"
        document["dimension"] = 7

    edit_yaml(tmp_path / "models/things_retrieval/model.yaml", spoil)
    (tmp_path / "models/things_retrieval/tags.json").write_text("[1]")
    (tmp_path / "models/things_ranking/ranker.onnx").write_bytes(b"altered")
    findings = examine_folder(tmp_path)
    things = "recsys.recommenders.things"
    said(findings, "error", "recsys.interactions.path", "nowhere.parquet can't be read")
    said(findings, "error", "recsys.serving.stale.nobody", "no feature view 'nobody'")
    said(findings, "error", f"{things}.retrieval.query", "no feature service 'no_service'")
    said(findings, "error", f"{things}.retrieval.history", "no feature 'nothing'")
    said(findings, "error", f"{things}.seen", "profile:age is a int64 value of the user, not a string list")
    said(findings, "error", f"{things}.seen", "no feature 'gone'")
    said(findings, "error", f"{things}.title", "catalogue:tags is a string list of the item")
    caps = f"{things}.reranking.caps"
    said(findings, "ok", f"{caps}[0].key", "at most 1 with the same catalogue:tags")
    said(findings, "error", f"{caps}[1].key", "catalogue:price is a float32 value of the item")
    said(findings, "error", f"{caps}[2].key", "profile:age is a int64 value of the user")
    said(findings, "error", f"{caps}[3].key", "no feature 'nothing'")
    said(findings, "error", f"{things}.ranking.model", "ranker.onnx differs from its checksum")
    said(findings, "error", "recsys.recommenders.others.retrieval.model", "has no exported retrieval model at")
    said(findings, "error", "catalogue:colour", "input 'year': feature view 'catalogue' has no feature 'colour'")
    said(findings, "error", "catalogue:title", "input 'price': catalogue:title is string in Feast, float32 in the")
    said(findings, "error", "tags.json", "holds keys of type int64, the input is string")
    said(findings, "error", "things_retrieval", "item_encoder gives vectors of width 4, the signature says 7")
    said(findings, "warning", "gone", "no feature service 'gone'; it has: query")
    said(findings, "warning", "profile", "has a ttl of 1 day, 0:00:00, which Feast doesn't enforce online")
    said(findings, "warning", "bundle", "nothing was ever published")


def test_a_stale_bundle_is_told_with_the_command(tmp_path):
    repo = healthy(tmp_path)
    materialize(repo, as_of=warehouse.AS_OF)
    warehouse.export_models(tmp_path / "models", True, seed=1)
    problems = sick(examine_folder(tmp_path))
    assert [p.subject for p in problems] == [
        "recsys.recommenders.things.retrieval",
        "recsys.recommenders.things.ranking",
    ]
    assert {p.severity for p in problems} == {"warning"}
    assert all("the bundle serves another" in p.message for p in problems)
    assert {p.remedy for p in problems} == {"run `feast-recsys materialize`"}
    materialize(open_repo(tmp_path), as_of=warehouse.AS_OF)
    assert sick(examine_folder(tmp_path)) == []


def test_changed_definitions_are_told(tmp_path):
    repo = healthy(tmp_path)
    materialize(repo, as_of=warehouse.AS_OF)
    repo.store.apply([FeatureService(name="more", features=[repo.store.get_feature_view("profile")])])
    finding = said(examine_folder(tmp_path), "warning", "bundle", "Feast's definitions have changed")
    assert finding.remedy == "run `feast-recsys materialize --full`"
    materialize(open_repo(tmp_path), mode="full", as_of=warehouse.AS_OF)
    assert sick(examine_folder(tmp_path)) == []


def test_a_bundle_of_other_recommenders_or_projects_is_told(tmp_path):
    repo = healthy(tmp_path)
    materialize(repo, as_of=warehouse.AS_OF)
    model = {"retrieval": {"model": "things_retrieval"}, "ranking": {"model": "things_ranking"}}
    warehouse.change_settings(tmp_path, {"recommenders": {"renamed": model}}, project="another")
    open_repo(tmp_path).store.apply(
        [*repo.store.list_entities(), *repo.store.list_feature_views(), *repo.store.list_feature_services()]
    )
    findings = examine_folder(tmp_path)
    said(findings, "warning", "recsys.recommenders.things", "the settings don't name it any more")
    said(findings, "warning", "recsys.recommenders.renamed", "the bundle doesn't serve it")
    said(findings, "error", "bundle", f"made from project {repo.store.project!r}, this is 'another'")


def test_a_service_that_lacks_what_a_model_takes_is_told(tmp_path):
    repo = healthy(tmp_path)
    materialize(repo, as_of=warehouse.AS_OF)
    service = FeatureService(name="query", features=[repo.store.get_feature_view("profile")])
    repo.store.apply([service])
    said(examine_folder(tmp_path), "warning", "query", "lacks history:item_ids, which things_retrieval takes")


def test_a_precomputed_service_is_refused(tmp_path):
    recommender = {"retrieval": {"vectors": warehouse.VECTORS, "query": "fast"}}
    repo = healthy(tmp_path, settings={"recommenders": {"things": recommender}})
    service = FeatureService(name="fast", features=[repo.store.get_feature_view("profile")], precompute_online=True)
    repo.store.apply([service])
    said(examine(repo), "error", "recsys.recommenders.things.retrieval.query", "precompute_online=True")


def test_a_declared_vector_length_must_be_the_models(tmp_path):
    repo = healthy(tmp_path)
    view = repo.store.get_feature_view("item_vectors")
    view.schema[0].vector_length = view.features[0].vector_length = 9
    repo.store.apply([view])
    said(examine(repo), "error", warehouse.VECTORS, "declares vector_length 9, things_retrieval gives 4")


def test_feasts_defaults_that_hurt_a_server_are_warned_of(tmp_path):
    repo = warehouse.build(tmp_path, configuration={"registry": {"path": "registry.db"}})
    findings = examine(repo)
    said(findings, "warning", "registry", "while Feast materializes a view")
    said(findings, "warning", "registry", "cache_ttl_seconds is 600")
    assert said(findings, "ok", "online_store", "sqlite: fine on one machine") in findings


def test_a_large_single_file_of_vectors_is_warned_of(tmp_path, monkeypatch):
    repo = healthy(tmp_path, vectors="file")
    assert not [f for f in examine(repo) if f.subject == "item_vectors"]
    monkeypatch.setattr(check_feast, "LARGE_FILE", 100)
    assert "folder" in said(examine(repo), "warning", "item_vectors", "item_vectors.parquet has 0 MB").remedy


def test_an_interactions_file_with_other_columns_is_told(tmp_path):
    interactions = {"path": "interactions.parquet", "label": "stars"}
    repo = healthy(tmp_path, settings={"interactions": interactions})
    pq.write_table(pa.table({"member": ["u1"], "thing": ["x"]}), tmp_path / "interactions.parquet")
    said(examine(repo), "error", "recsys.interactions", "lacks sku, event_timestamp, stars; it has member, thing")


def test_every_wrong_setting_is_told_at_once(tmp_path):
    healthy(tmp_path)
    wrong = {"keep_bundles": 1, "colour": "red", "recommenders": {"things": {"top_k": 0, "seen": ["a"]}}}
    warehouse.change_settings(tmp_path, wrong)
    findings = examine_folder(tmp_path)
    assert {finding.severity for finding in findings} == {"error"}
    assert {finding.subject for finding in findings} == {
        "recsys.keep_bundles",
        "recsys.colour",
        "recsys.recommenders.things.top_k",
        "recsys.recommenders.things.seen.0",
    }


class Priced(nn.Module):
    """A ranker that has something to compute for each item alone, and for each user."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tags, self.tower = nn.Embedding(4, 8, padding_idx=0), nn.Sequential(nn.Linear(10, 8), nn.ReLU())
        self.out = nn.Linear(8, 1)

    def forward(self, age, tags, sold):
        own = torch.cat([self.tags(tags).sum(1), (sold / 100).clamp(-3, 3).unsqueeze(-1)], dim=-1)
        user = (age / 100).clamp(-3, 3).expand(len(sold)).unsqueeze(-1)
        return torch.sigmoid(self.out(self.tower(torch.cat([user, own], dim=-1)))).squeeze(-1)


def export_priced(folder, *, module=None, drop=(), **fresh):
    """Exports it as the warehouse's ranking model; `fresh` says of inputs that they are read at each request."""
    takes = [i for i in warehouse.inputs(True)[Role.RANKER] if i.name in ("age", "tags", "sold") and i.name not in drop]
    takes = [replace(i, fresh=i.name in fresh) for i in takes]
    graph = Graph(Role.RANKER, tuple(takes), "probability")
    signature = Signature("things_ranking", Stage.RANKING, {Role.RANKER: graph})
    export_model(
        {Role.RANKER: module or Priced()}, signature, {"tags.json": warehouse.TAGS}, folder / "models/things_ranking"
    )


def tag_online(repo, *views):
    for name in views:
        view = repo.store.get_feature_view(name)
        view.tags = {"recsys/freshness": "online"}
        repo.store.apply([view])


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priced")
    export_priced(folder)
    return folder / "models/things_ranking"


def with_model(folder, model):
    repo = healthy(folder)
    shutil.copytree(model, folder / "models/things_ranking", dirs_exist_ok=True)
    return repo


def test_what_the_split_of_a_ranker_saves_is_told(tmp_path, priced):
    repo = with_model(tmp_path, priced)
    facts = load_model(tmp_path / "models/things_ranking")[0].metadata["split"]
    flops, kept = facts["flops_per_candidate"], facts["item_columns_bytes"]
    assert flops["served"] < flops["whole"]
    found = said(examine(repo), "ok", "things_ranking", "the ranker is split")
    assert f"{flops['whole']} -> {flops['served']} FLOPs" in found.message
    assert f"{kept} bytes kept per item; 2 of 2 inputs of an item are worked in beforehand" in found.message


def test_a_ranker_in_which_nothing_can_be_computed_beforehand_says_why(tmp_path):
    class Mixed(nn.Module):
        def forward(self, age, sold):
            return torch.sigmoid((age.expand(len(sold)) - sold).clamp(-3, 3) / 3.0)

    repo = healthy(tmp_path)
    export_priced(tmp_path, module=Mixed(), drop=("tags",))
    assert said(examine(repo), "ok", "things_ranking", "the ranker is served whole: what depends on the item alone")


def test_a_view_that_became_fresh_after_the_export_is_warned_of_as_the_server_serves_the_whole_graph(tmp_path, priced):
    repo = with_model(tmp_path, priced)
    tag_online(repo, "popularity")
    found = said(examine(repo), "warning", "things_ranking", "popularity:sold is read at each request")
    assert "the ranker is served whole" in found.message
    assert "export again" in found.remedy
    export_priced(tmp_path, sold=True)
    found = said(examine(repo), "ok", "things_ranking", "the ranker is split")
    assert "1 of 2 inputs of an item are worked in beforehand" in found.message


def test_a_ranker_of_which_nothing_can_be_computed_beforehand_because_all_is_fresh_is_warned_of(tmp_path):
    repo = healthy(tmp_path)
    export_priced(tmp_path, sold=True, tags=True)
    tag_online(repo, "popularity", "catalogue")
    message = "catalogue:tags, popularity:sold is read at each request"
    assert "0 of 2 inputs of an item" in said(examine(repo), "warning", "things_ranking", message).message


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGE = {
    "no configuration": (lambda f: remove(f / "feature_store.yaml"), "can't be read"),
    "configuration that is no YAML": (lambda f: (f / "feature_store.yaml").write_text("a: ["), "can't be read"),
    "configuration that is no mapping": (lambda f: (f / "feature_store.yaml").write_text("[]"), "has no `recsys:`"),
    "no section": (lambda f: edit_yaml(f / "feature_store.yaml", lambda d: d.pop("recsys")), "has no `recsys:`"),
    "no project": (lambda f: edit_yaml(f / "feature_store.yaml", lambda d: d.pop("project")), "project"),
    "no registry setting": (lambda f: edit_yaml(f / "feature_store.yaml", lambda d: d.pop("registry")), "egistry"),
    "unknown online store": (
        lambda f: edit_yaml(f / "feature_store.yaml", lambda d: d.update(online_store={"type": "nothing"})),
        "Online Store Class 'nothing'",
    ),
    "no registry": (lambda f: remove(f / "registry.db"), "has no feature views"),
    "broken registry": (lambda f: (f / "registry.db").write_bytes(b"\xff" * 100), "the registry can't be read"),
    "no online store": (lambda f: remove(f / "online.db"), "from the online store failed"),
    "no models": (lambda f: remove(f / "models"), "has no exported retrieval model"),
    "broken signature": (lambda f: (f / "models/things_ranking/model.yaml").write_text("{"), "model.yaml"),
    "broken graph": (lambda f: (f / "models/things_ranking/ranker.onnx").write_bytes(b""), "ranker.onnx differs"),
    "lost vocabulary": (lambda f: remove(f / "models/things_ranking/tags.json"), "tags.json can't be read"),
    "broken bundle": (lambda f: remove(next(f.glob("bundles/2*/snapshot/ids.npy"))), "lacks snapshot/ids.npy"),
    "broken pointer": (lambda f: (f / "bundles/CURRENT").write_text("gone"), "gone/manifest.json"),
    "entity renamed": (lambda f: warehouse.change_settings(f, {"item": "thing"}), "no entity 'thing'"),
    "sides swapped": (lambda f: warehouse.change_settings(f, {"user": "product", "item": "customer"}), "customer"),
    "catalogue gone": (lambda f: warehouse.change_settings(f, {"catalogue": "gone"}), "no feature view 'gone'"),
    "catalogue of users": (
        lambda f: warehouse.change_settings(f, {"catalogue": "profile"}),
        "not a feature view of exactly",
    ),
    "old keys": (
        lambda f: edit_yaml(f / "feature_store.yaml", lambda d: d.update(entity_key_serialization_version=2)),
        "entity_key_serialization_version",
    ),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A healthy, published repository to break; relative paths, so that a copy is a repository too."""
    folder = tmp_path_factory.mktemp("published")
    materialize(healthy(folder), as_of=warehouse.AS_OF)
    return folder


@pytest.mark.filterwarnings("ignore:The serialization version:RuntimeWarning")
@pytest.mark.parametrize("damage", DAMAGE)
def test_doctor_survives_whatever_is_broken_and_names_it(published, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(published, folder)
    spoil, message = DAMAGE[damage]
    spoil(folder)
    findings = examine_folder(folder)
    assert all(isinstance(finding, Finding) for finding in findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    assert any(message in finding.message for finding in errors), findings
    assert not any("could not be checked" in finding.message for finding in findings), findings


def test_a_store_that_does_not_answer_is_asked_once(published, tmp_path):
    """Redis clients wait for seconds before they give up, and there are several views."""
    folder = tmp_path / "copy"
    shutil.copytree(published, folder)
    (folder / "online.db").unlink()
    findings = examine_folder(folder)
    assert [finding.subject for finding in sick(findings)] == ["online_store"]
    assert "start the online store" in said(findings, "error", "online_store", "from the online store failed").remedy
    assert said(findings, "ok", "bundle", "6 items")


def test_an_unforeseen_failure_becomes_a_finding(tmp_path):
    """Feast's own objects may hold what no check expects."""
    repo = healthy(tmp_path)
    materialize(repo, as_of=warehouse.AS_OF)
    (tmp_path / "bundles/CURRENT").unlink()
    (tmp_path / "bundles/CURRENT").mkdir()
    said(examine_folder(tmp_path), "error", "bundle", "could not be checked: IsADirectoryError")
