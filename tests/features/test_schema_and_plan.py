"""What the registry says, and what is refused before a single value is read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureView, FeatureViewState, Field, FileSource, ValueType
from feast.types import Array, Bytes, Float32, Int64, Map, String
from support.feast_repo import View, at, feast_repo
from support.feature_types import EVERY_TYPE

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import ViewPlan, compile_plan, compile_service_plan
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.schema import FeatureSchema, feature_schema, service_schemas

USER_ROWS = pd.DataFrame({"user_id": [1], "event_timestamp": [at(0)], "age": [5], "words": [["x"]], "raw": [b"x"]})
ITEM_ROWS = pd.DataFrame({"item_id": [1], "event_timestamp": [at(0)], "score": [0.5]})


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    views = [
        View("profile", "user", {"age": Int64, "words": Array(String)}, USER_ROWS, ttl=timedelta(hours=1)),
        View("odd", "user", {"raw": Bytes}, USER_ROWS),
        View("stats", "item", {"score": Float32}, ITEM_ROWS),
    ]
    services = {"both": ["stats:score", "profile:words", "profile:age"]}
    return feast_repo(tmp_path, views, services=services, materialize_until=at(1).to_pydatetime())


def change(repo: Repo, name: str, edit: Callable[[Any], None]) -> None:
    view = repo.store.get_feature_view(name)
    edit(view)
    repo.store.registry.apply_feature_view(view, repo.store.project)


def test_a_feature_has_type_shape_and_side(repo: Repo) -> None:
    assert feature_schema(repo, "profile:words") == FeatureSchema(
        "profile:words", DType.STRING, True, Side.USER, {}, ("user_id",)
    )
    assert feature_schema(repo, "stats:score") == FeatureSchema(
        "stats:score", DType.FLOAT32, False, Side.ITEM, {}, ("item_id",)
    )


def test_every_supported_type(tmp_path: Path) -> None:
    features = {name: kind for name, kind, *_ in EVERY_TYPE}
    repo = feast_repo(tmp_path, [View("typed", "user", features, USER_ROWS)])
    schemas = {name: feature_schema(repo, f"typed:{name}") for name in features}
    assert [name for name, schema in schemas.items() if schema.is_list] == [n for n in features if n.endswith("s")]
    expected = {"f": DType.FLOAT32, "b": DType.BOOL, "s": DType.STRING}
    assert {name: s.dtype for name, s in schemas.items()} == {n: expected.get(n[0], DType.INT64) for n in features}


def test_tags_are_kept(repo: Repo) -> None:
    def tag(view: Any) -> None:
        view.features = [Field(name="age", dtype=Int64, tags={"unit": "years"})]

    change(repo, "profile", tag)
    assert feature_schema(repo, "profile:age").tags == {"unit": "years"}


def test_a_service_lists_views_then_features_as_declared(repo: Repo) -> None:
    assert [s.reference for s in service_schemas(repo, "both")] == ["stats:score", "profile:words", "profile:age"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere:age", r"'nowhere'; it has: odd, profile, stats"),
        ("profile:size", r"'profile' has no feature 'size'; it has: age, words"),
        ("odd:raw", r"odd:raw is of type BYTES"),
        ("profile", "view:feature"),
        (":age", "view:feature"),
        ("profile:", "view:feature"),
        ("profile@v2:age", "version"),
    ],
)
def test_references_that_lead_nowhere(repo: Repo, reference: str, message: str) -> None:
    with pytest.raises(InvalidRepository, match=message):
        feature_schema(repo, reference)
    with pytest.raises(InvalidRepository, match=message):
        compile_plan(repo, [reference], Side.USER)


def test_an_unknown_service_names_those_that_exist(repo: Repo) -> None:
    with pytest.raises(InvalidRepository, match=r"'neither'; it has: both"):
        service_schemas(repo, "neither")


def test_precomputed_services_are_refused(repo: Repo) -> None:
    repo.store.apply(
        [FeatureService(name="fast", features=[repo.store.get_feature_view("profile")], precompute_online=True)]
    )
    with pytest.raises(InvalidRepository, match=r"'fast'.*precompute_online"):
        service_schemas(repo, "fast")


def test_a_service_that_pins_a_version_is_refused(repo: Repo) -> None:
    view = repo.store.get_feature_view("profile")
    view.projection.version_tag = 1
    repo.store.apply([FeatureService(name="pinning", features=[view])])
    with pytest.raises(InvalidRepository, match=r"'pinning' pins the version of view 'profile'"):
        service_schemas(repo, "pinning")


def test_a_service_lists_aliases_by_their_names_and_keys(repo: Repo) -> None:
    view = repo.store.get_feature_view("profile")
    friend = view.with_name("friend").with_join_key_map({"user_id": "friend_id"})
    repo.store.apply([FeatureService(name="aliased", features=[friend, view.with_name("own")])])
    schemas = service_schemas(repo, "aliased")
    assert [(schema.reference, schema.side, schema.join_keys) for schema in schemas] == [
        ("friend:age", Side.USER, ("friend_id",)),
        ("friend:words", Side.USER, ("friend_id",)),
        ("own:age", Side.USER, ("user_id",)),
        ("own:words", Side.USER, ("user_id",)),
    ]
    assert feature_schema(repo, "friend:words", "aliased") == schemas[1]
    plan = compile_plan(repo, ["friend:words", "profile:age"], Side.USER, "aliased")
    assert [(view.name, view.view) for view in plan.views] == [("friend", "profile"), ("profile", "profile")]
    assert list(plan.join_keys) == ["friend_id", "user_id"]
    with pytest.raises(InvalidRepository, match="no feature view 'friend'"):
        compile_plan(repo, ["friend:words"], Side.USER)


def test_an_item_under_another_join_key_is_not_the_candidate(repo: Repo) -> None:
    """Such as the item that the user looks at: it comes with the request, one for all candidates."""
    stats = repo.store.get_feature_view("stats")
    current = stats.with_name("current").with_join_key_map({"item_id": "current_id"})
    repo.store.apply([FeatureService(name="page", features=[current, stats])])
    assert [(s.reference, s.side) for s in service_schemas(repo, "page")] == [
        ("current:score", Side.USER),
        ("stats:score", Side.ITEM),
    ]
    assert list(compile_plan(repo, ["current:score"], Side.USER, "page").join_keys) == ["current_id"]
    with pytest.raises(InvalidRepository, match="'current' belongs to"):
        compile_plan(repo, ["current:score"], Side.ITEM, "page")


def test_two_views_under_one_name_are_refused(repo: Repo) -> None:
    view = repo.store.get_feature_view("profile")
    friend = view[["words"]].with_join_key_map({"user_id": "friend_id"})
    repo.store.apply([FeatureService(name="twice", features=[view[["age"]], friend])])
    with pytest.raises(InvalidRepository, match=r"'twice' has two views under the name 'profile'.*with_name"):
        service_schemas(repo, "twice")


def test_a_plan_of_a_service_has_all_of_it(repo: Repo) -> None:
    plan = compile_service_plan(repo, "both")
    assert plan.references == ("stats:score", "profile:words", "profile:age")
    assert plan.side is None
    assert plan.key is None
    assert {column: key.entity for column, key in plan.join_keys.items()} == {"item_id": "item", "user_id": "user"}


def test_a_plan_holds_what_a_read_needs(repo: Repo) -> None:
    plan = compile_plan(repo, ["profile:words", "profile:age", "profile:words"], Side.USER)
    assert plan.references == ("profile:words", "profile:age")
    assert plan.key.join_key == "user_id"
    [view] = plan.views
    assert (view.features, view.ttl, view.stale) == (("words", "age"), 3600.0, "serve")
    assert [(column.name, column.field) for column in view.keys] == [("user_id", "int64_val")]


def test_features_of_the_other_side_are_refused(repo: Repo) -> None:
    with pytest.raises(InvalidRepository, match=r"'stats' belongs to \['item'\].*user side.*'user'"):
        compile_plan(repo, ["profile:age", "stats:score"], Side.USER)


def apply_view(repo: Repo, name: str, entities: list[Entity], tags: dict[str, str] | None = None) -> None:
    source = repo.store.get_feature_view("profile").batch_source
    keys = [Field(name=key, dtype=Int64) for entity in entities if (key := entity.join_key) not in ("user_id",)]
    schema = [Field(name="age", dtype=Int64), *keys]
    view = FeatureView(name=name, entities=entities, schema=schema, source=source, tags=tags)
    view.state = FeatureViewState.AVAILABLE_ONLINE
    repo.store.apply([*entities, view])


SHOP = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)


def test_views_that_do_not_depend_on_the_item_are_of_the_user_side(repo: Repo) -> None:
    user = repo.store.get_entity("user")
    for name, entities in (("foreign", [SHOP]), ("pairs", [user, SHOP]), ("everybody", [])):
        apply_view(repo, name, entities)
        schema = feature_schema(repo, f"{name}:age")
        assert (schema.side, schema.join_keys) == (Side.USER, tuple(entity.join_key for entity in entities))
        plan = compile_plan(repo, [f"{name}:age"], Side.USER)
        assert {column: key.entity for column, key in plan.join_keys.items()} == {e.join_key: e.name for e in entities}
        with pytest.raises(InvalidRepository, match=f"'{name}' belongs to"):
            compile_plan(repo, [f"{name}:age"], Side.ITEM)


def test_a_view_of_the_item_and_somebody_is_refused(repo: Repo) -> None:
    apply_view(repo, "ratings", [repo.store.get_entity("user"), repo.store.get_entity("item")])
    for call in (
        lambda: feature_schema(repo, "ratings:age"),
        lambda: compile_plan(repo, ["ratings:age"], Side.USER),
        lambda: compile_plan(repo, ["ratings:age"], Side.ITEM),
    ):
        with pytest.raises(InvalidRepository, match=r"'ratings' belongs to \['user', 'item'\].*each item and user_id"):
            call()


@pytest.mark.parametrize(
    ("tags", "fresh"), [({}, False), ({"recsys/freshness": "snapshot"}, False), ({"recsys/freshness": "online"}, True)]
)
def test_a_view_may_ask_to_be_read_online(repo: Repo, tags: dict[str, str], fresh: bool) -> None:
    apply_view(repo, "stock", [repo.store.get_entity("item")], tags)
    assert feature_schema(repo, "stock:age").fresh is fresh


def test_another_freshness_is_refused(repo: Repo) -> None:
    apply_view(repo, "stock", [repo.store.get_entity("item")], {"recsys/freshness": "hourly"})
    with pytest.raises(InvalidRepository, match=r"'stock'.*'hourly'; it must be `online` or `snapshot`"):
        feature_schema(repo, "stock:age")


def test_a_key_of_another_type_than_the_entity_is_refused(repo: Repo) -> None:
    def as_text(view: Any) -> None:
        view.entity_columns = [Field(name="user_id", dtype=String)]

    change(repo, "profile", as_text)
    with pytest.raises(InvalidRepository, match=r"'profile' declares STRING.*'user_id'.*int64"):
        compile_plan(repo, ["profile:age"], Side.USER)


def test_a_disabled_view_is_refused(repo: Repo) -> None:
    change(repo, "profile", lambda view: setattr(view, "enabled", False))
    with pytest.raises(InvalidRepository, match="feast feature-views enable profile"):
        compile_plan(repo, ["profile:age"], Side.USER)


def test_an_offline_view_is_refused(repo: Repo) -> None:
    change(repo, "profile", lambda view: setattr(view, "online", False))
    with pytest.raises(InvalidRepository, match=r"'profile'.*online=True"):
        compile_plan(repo, ["profile:age"], Side.USER)


@pytest.mark.parametrize("state", list(FeatureViewState))
@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.filterwarnings("ignore:serve_features_while_materializing")  # it works on file registries all the same
def test_the_state_of_a_view_gates_as_feast_does(tmp_path: Path, state: FeatureViewState, lifted: bool) -> None:
    registry = {"path": "registry.db", "cache_ttl_seconds": 0, "serve_features_while_materializing": lifted}
    views = [View("profile", "user", {"age": Int64}, USER_ROWS)]
    repo = feast_repo(tmp_path, views, configuration={"registry": registry}, materialize_until=at(1).to_pydatetime())
    change(repo, "profile", lambda view: setattr(view, "state", state))
    try:
        repo.store.get_online_features(["profile:age"], [{"user_id": 1}])
        feast_serves = True
    except ValueError:
        feast_serves = False
    if feast_serves:
        assert compile_plan(repo, ["profile:age"], Side.USER).references == ("profile:age",)
        return
    with pytest.raises(InvalidRepository, match=f"'profile' is in state {state.name}") as caught:
        compile_plan(repo, ["profile:age"], Side.USER)
    assert ("serve_features_while_materializing" in caught.value.message) is (state is FeatureViewState.MATERIALIZING)


def test_compiling_sees_what_another_process_applied(repo: Repo) -> None:
    assert compile_plan(repo, ["profile:age"], Side.USER).references
    other = open_repo(repo.path)
    source = FileSource(path=str(repo.path / "profile.parquet"), timestamp_field="event_timestamp")
    user = other.store.get_entity("user")
    other.store.apply(
        [FeatureView(name="late", entities=[user], schema=[Field(name="age", dtype=Int64)], source=source)]
    )
    assert compile_plan(repo, ["late:age"], Side.USER).references == ("late:age",)


def test_maps_are_no_input(repo: Repo) -> None:
    change(repo, "odd", lambda view: setattr(view, "features", [Field(name="raw", dtype=Map)]))
    with pytest.raises(InvalidRepository, match="odd:raw is of type MAP"):
        compile_plan(repo, ["odd:raw"], Side.USER)


def test_old_key_formats_are_refused(repo: Repo) -> None:
    repo.store.config.entity_key_serialization_version = 2
    with pytest.raises(InvalidRepository, match=r"entity_key_serialization_version is 2; set it to 3"):
        compile_plan(repo, ["profile:age"], Side.USER)


def test_plans_can_not_be_changed(repo: Repo) -> None:
    plan = compile_plan(repo, ["profile:age"], Side.USER)
    assert isinstance(plan.views[0], ViewPlan)
    for target, name in ((plan, "references"), (plan.views[0], "features"), (plan.views[0].slots[0], "kind")):
        with pytest.raises(AttributeError):
            setattr(target, name, ())
