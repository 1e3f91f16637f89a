"""Modules that do not fit their signature are refused by the name of the feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto
from onnx import helper as oh
from support.torch_modules import Source
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.runtime import load_model
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters import trace
from feast_recsys.exporters.export import export_model

AGE = Input("age", "user_profile:age", Side.USER, DType.INT64)
HISTORY = Input("history", "user_history:item_ids", Side.USER, DType.INT64, 8, vocabulary="items.json")
RATINGS = Input("ratings", "user_history:ratings", Side.USER, DType.FLOAT32, 8, 0.0, 0.0)
ITEM = Input("item", "entity:item_id", Side.ITEM, DType.INT64, vocabulary="items.json")
PRICE = Input("price", "item_profile:price", Side.ITEM, DType.FLOAT32, default=0.0)
VOCABULARIES = {"items.json": Vocabulary((3, 5, 7, 9))}


def _export(module: nn.Module, *inputs: Input, folder: Path, output: str = "score") -> Signature:
    signature = Signature("m", Stage.RANKING, {Role.RANKER: Graph(Role.RANKER, inputs, output)})
    return export_model({Role.RANKER: module}, signature, VOCABULARIES, folder)


def _refused(module: nn.Module, *inputs: Input, folder: Path, output: str = "score") -> InvalidSignature:
    with pytest.raises(InvalidSignature) as caught:
        _export(module, *inputs, folder=folder / "m", output=output)
    assert list(folder.iterdir()) == []
    return caught.value


class _Base(nn.Module):
    def __init__(self, rows: int = 5) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 4)


class _Item(_Base):
    def forward(self, item: Tensor) -> Tensor:
        return torch.sigmoid(self.table(item).sum(-1))


class _ItemAndAge(_Base):
    def forward(self, item: Tensor, age: Tensor) -> Tensor:
        return torch.sigmoid(self.table(item).sum(-1) + age.clamp(0, 100) / 100)


class _Counts(_Base):
    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        return torch.sigmoid(self.table(item).sum(-1) / (history != 0).sum(1).clamp(min=1))


class _Masked(_Base):
    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        mask = (history != 0).to(torch.float32).unsqueeze(-1)
        mean = (self.table(history) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.sigmoid((self.table(item) * mean).sum(-1))


def test_an_input_that_forward_does_not_take(tmp_path: Path) -> None:
    error = _refused(_Item(), ITEM, AGE, folder=tmp_path)
    assert error.message.startswith("ranker: forward() does not take user_profile:age (input 'age'); it takes item.")
    assert error.field == "age"


def test_a_parameter_that_the_signature_lacks(tmp_path: Path) -> None:
    error = _refused(_ItemAndAge(), ITEM, folder=tmp_path)
    assert error.message == "ranker: forward() takes 'age', which the signature lacks; add an input of that name"
    assert error.field == "age"


def test_a_parameter_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    class Optional(_Item):
        def forward(self, item: Tensor, scale: float = 0.5, *extra: Tensor, flag: bool = False) -> Tensor:
            return super().forward(item) * scale

    _export(Optional(), ITEM, folder=tmp_path / "m")


def test_a_parameter_by_position_only(tmp_path: Path) -> None:
    class Positional(_Item):
        def forward(self, item: Tensor, /, **rest: Tensor) -> Tensor:
            return super().forward(item)

    assert "'item' by position only" in _refused(Positional(), ITEM, folder=tmp_path).message


def test_a_name_that_keyword_modules_ask_for_and_do_not_get(tmp_path: Path) -> None:
    class Keywords(_Item):
        def forward(self, **inputs: Tensor) -> Tensor:
            return super().forward(inputs["item"]) * inputs["weight"]

    error = _refused(Keywords(), ITEM, folder=tmp_path)
    assert "KeyError: 'weight'" in error.message
    assert "entity:item_id as int64 [batch] row numbers" in error.message


@pytest.mark.parametrize(
    ("module", "inputs", "feature", "remedy"),
    [
        (
            _Item(),
            (dataclasses.replace(ITEM, dtype=DType.FLOAT32, default=0.0, vocabulary=None),),
            "entity:item_id",
            "int64, so declare that",
        ),
        (_Item(rows=4), (ITEM,), "entity:item_id", "row 0 only, so give the embedding as many rows as len(vocabulary)"),
        (_Item(), (dataclasses.replace(ITEM, vocabulary=None),), "entity:item_id", "zeros, so keep values inside"),
        (
            _Counts(),
            (ITEM, dataclasses.replace(HISTORY, max_length=None)),
            "user_history:item_ids",
            "[batch, length], so give max_length",
        ),
    ],
    ids=["dtype", "table", "range", "shape"],
)
def test_a_dtype_or_shape_that_forward_can_not_take(
    module: nn.Module, inputs: tuple[Input, ...], feature: str, remedy: str, tmp_path: Path
) -> None:
    error = _refused(module, *inputs, folder=tmp_path)
    assert f"forward() fails on {feature} (input" in error.message
    assert f"it works with {remedy}" in error.message
    assert error.field in {spec.name for spec in inputs}


def test_a_scalar_declared_as_a_list(tmp_path: Path) -> None:
    class Stacks(_Item):
        def forward(self, item: Tensor, price: Tensor) -> Tensor:
            return torch.sigmoid(torch.stack([self.table(item).sum(-1), price], -1).sum(-1))

    error = _refused(Stacks(), ITEM, dataclasses.replace(PRICE, max_length=3, pad=0.0), folder=tmp_path)
    assert "forward() fails on item_profile:price" in error.message
    assert "[batch], so leave out max_length" in error.message


def test_an_error_that_no_single_input_explains_names_all(tmp_path: Path) -> None:
    class Breaks(_Item):
        def forward(self, item: Tensor, price: Tensor) -> Tensor:
            raise RuntimeError("no such thing\nat all")

    error = _refused(Breaks(), ITEM, PRICE, folder=tmp_path)
    assert "entity:item_id as int64 [batch]" in error.message
    assert "item_profile:price as float32 [batch]" in error.message
    assert error.message.endswith("RuntimeError: no such thing")


class _Shaped(nn.Module):
    """Gives whatever the test says."""

    def __init__(self, give: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.give = give

    def forward(self, price: Tensor) -> object:
        return self.give(price.clamp(0, 1))


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: x.unsqueeze(-1), "shape [5, 1] for 5 candidates; return one probability a candidate, [5]: squeeze"),
        (lambda x: x.mean(), "shape [] for 5 candidates"),
        (lambda x: x[:1], "shape [1] for 5 candidates"),
        (lambda x: x.double(), "gives torch.float64; return float32"),
        (lambda x: (x,), "gives a tuple; return one tensor"),
        (lambda x: {"score": x}, "gives a dict; return one tensor"),
    ],
)
def test_a_ranker_gives_one_probability_a_candidate(
    give: Callable[[Tensor], object], message: str, tmp_path: Path
) -> None:
    error = _refused(_Shaped(give), PRICE, folder=tmp_path)
    assert message in error.message
    assert error.field == "graphs.ranker.output"


@pytest.mark.parametrize(
    ("role", "output", "message"),
    [
        (
            Role.QUERY_ENCODER,
            lambda x: x[:, :5],
            "query_encoder: forward() gives vectors of width 5, the signature says dimension 6",
        ),
        (
            Role.ITEM_ENCODER,
            lambda x: x.unsqueeze(1),
            "item_encoder: forward() gives shape [5, 1, 6] for a batch of 5; return one vector a row, [5, 6]",
        ),
        (Role.ITEM_ENCODER, lambda x: x.sum(-1), "item_encoder: forward() gives shape [5] for a batch of 5"),
    ],
)
def test_an_encoder_gives_vectors_of_the_declared_dimension(
    role: Role, output: Callable[[Tensor], Tensor], message: str, retrieval: Source, tmp_path: Path
) -> None:
    retrieval.modules[role].register_forward_hook(lambda module, args, result: output(result))
    with pytest.raises(InvalidSignature) as caught:
        export_model(retrieval.modules, retrieval.signature, retrieval.vocabularies, tmp_path / "m")
    assert message in caught.value.message


class _LinearOverList(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, item: Tensor, ratings: Tensor) -> Tensor:
        return torch.sigmoid(self.table(item).sum(-1) + self.linear(ratings).squeeze(-1))


class _LoopOverRows(_Base):
    def forward(self, item: Tensor) -> Tensor:
        return torch.stack([torch.sigmoid(self.table(item[row]).sum(-1)) for row in range(item.shape[0])])


class _FixedRows(_Base):
    def forward(self, item: Tensor) -> Tensor:
        return torch.full((5,), 0.5)


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (
            _LinearOverList(),
            (ITEM, RATINGS),
            "user_history:ratings (input 'ratings'): forward() fixes the length of the list to 3",
        ),
        (_LoopOverRows(), (ITEM,), "entity:item_id (input 'item'): forward() fixes the batch size to 5"),
        (_FixedRows(), (ITEM,), "forward() fixes the number of rows of its output to 5"),
    ],
    ids=["length", "batch", "output"],
)
def test_a_fixed_dimension_is_refused(
    module: nn.Module, inputs: tuple[Input, ...], message: str, tmp_path: Path
) -> None:
    assert message in _refused(module, *inputs, folder=tmp_path).message


class _Together(_Base):
    """Multiplies two lists element by element."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.width = width

    def forward(self, item: Tensor, history: Tensor, ratings: Tensor) -> Tensor:
        if self.width is not None:
            history = functional.pad(history, (0, self.width - history.shape[1]))
            ratings = functional.pad(ratings, (0, self.width - ratings.shape[1]))
        mask = (history != 0).to(torch.float32)
        weights = (mask * ratings.clamp(-5, 5)).unsqueeze(-1)
        mean = (self.table(history) * weights).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.sigmoid((self.table(item) * mean).sum(-1))


@pytest.mark.parametrize("longest", [2, 8])
def test_lists_that_must_be_equally_long_are_refused(longest: int, tmp_path: Path) -> None:
    lists = (dataclasses.replace(spec, max_length=longest) for spec in (HISTORY, RATINGS))
    error = _refused(_Together(None), ITEM, *lists, folder=tmp_path)
    assert error.message.startswith("ranker: user_history:ratings (input 'ratings'): forward() needs it as long as")
    assert "user_history:item_ids" in error.message


def test_lists_that_are_padded_inside_may_have_any_lengths(tmp_path: Path) -> None:
    _export(_Together(8), ITEM, HISTORY, RATINGS, folder=tmp_path / "m")
    _, graphs = load_model(tmp_path / "m")
    feed = {"item": np.array([3, 5]), "history": np.array([[7, 9, 3]]), "ratings": np.array([[1.0]], np.float32)}
    assert graphs["ranker"].run(feed).shape == (2,)


class _BranchOnValues(_Base):
    def forward(self, item: Tensor) -> Tensor:
        if (item > 2).any():
            return torch.sigmoid(self.table(item).sum(-1))
        return torch.sigmoid(self.table(item).mean(-1))


class _Search(_Base):
    def forward(self, price: Tensor) -> Tensor:
        return torch.sigmoid(torch.searchsorted(torch.tensor([0.0, 1.0]), price.contiguous()).to(torch.float32))


@pytest.mark.parametrize(("module", "spec"), [(_BranchOnValues(), ITEM), (_Search(), PRICE)])
def test_what_torch_can_not_translate_is_told_in_one_line(
    module: nn.Module, spec: Input, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = _refused(module, spec, folder=tmp_path)
    assert error.message.startswith("ranker: forward() can't be exported: ")
    assert "\n" not in error.message
    assert error.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_an_input_that_the_exporter_loses_is_missed() -> None:
    value = oh.make_tensor_value_info(trace.OUTPUT, TensorProto.FLOAT, ["n"])
    graph = oh.make_graph([], "traced", [], [value])
    with pytest.raises(InvalidSignature, match=r"entity:item_id \(input 'item'\) got lost in the export"):
        trace.check_dimensions(oh.make_model(graph), Graph(Role.RANKER, (ITEM,), "score"))


def test_inputs_named_like_operators_and_like_each_other_export(tmp_path: Path) -> None:
    class Names(_Base):
        def forward(self, embedding: Tensor, sigmoid: Tensor, add: Tensor) -> Tensor:
            return torch.sigmoid(self.table(embedding).sum(-1) + sigmoid.clamp(-1, 1) + add.clamp(-1, 1))

    names = (
        dataclasses.replace(ITEM, name="embedding"),
        *(dataclasses.replace(PRICE, name=n) for n in ("sigmoid", "add")),
    )
    _export(Names(), *names, folder=tmp_path / "m", output="linear")


def test_the_output_needs_a_name_of_its_own(tmp_path: Path) -> None:
    assert (
        "'item' is the name of an input and of the output"
        in _refused(_Item(), ITEM, folder=tmp_path, output="item").message
    )


def test_a_ranker_needs_something_that_counts_candidates(tmp_path: Path) -> None:
    class UserOnly(_Base):
        def forward(self, age: Tensor) -> Tensor:
            return torch.sigmoid(age / 100)

    assert "needs at least one input of item side" in _refused(UserOnly(), AGE, folder=tmp_path).message


def test_lists_of_one_have_a_fixed_length_of_one(tmp_path: Path) -> None:
    _export(_Masked(), ITEM, dataclasses.replace(HISTORY, max_length=1), folder=tmp_path / "m")
    _, graphs = load_model(tmp_path / "m")
    assert graphs["ranker"].session.get_inputs()[1].shape == [1, 1]


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (None, r"item_profile:file: no list of known ids 'known.json'; there are ['items.json']"),
        (Vocabulary((3, 8)), "says that the graph knows item 8 without its sound, but no vocabulary of an input"),
        (Vocabulary(("3",)), "says that the graph knows item '3' without its sound, but no vocabulary of an input"),
    ],
)
def test_items_whose_sound_is_not_read_must_be_known(tmp_path: Path, known: Vocabulary | None, message: str) -> None:
    sound = Input("sound", "item_profile:file", Side.ITEM, DType.FLOAT32, 60, audio={"mels": 6}, known="known.json")
    encoders = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, (AGE,), "vector"),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (ITEM, sound), "vector"),
    }
    signature = Signature("m", Stage.RETRIEVAL, encoders, 4)
    files = VOCABULARIES if known is None else {**VOCABULARIES, "known.json": known}
    with pytest.raises(InvalidSignature) as caught:
        export_model(dict.fromkeys(encoders, nn.Identity()), signature, files, tmp_path / "m")
    assert message in caught.value.message
    assert caught.value.field == "sound"


def test_roles_must_match(retrieval: Source, ranking: Source, tmp_path: Path) -> None:
    only = {Role.ITEM_ENCODER: retrieval.modules[Role.ITEM_ENCODER]}
    with pytest.raises(InvalidSignature, match="no module for query_encoder"):
        export_model(only, retrieval.signature, retrieval.vocabularies, tmp_path / "m")
    both = {**retrieval.modules, **ranking.modules}
    with pytest.raises(InvalidSignature, match="a module for ranker, which the signature does not have"):
        export_model(both, retrieval.signature, retrieval.vocabularies, tmp_path / "m")


def test_modules_elsewhere_than_on_the_cpu_are_refused(tmp_path: Path) -> None:
    assert "table.weight is on meta; export from the CPU" in _refused(_Item().to("meta"), ITEM, folder=tmp_path).message


def test_weights_that_one_file_can_not_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_BYTES", 5 * 4 * 4 - 1)
    assert "GB of weights; one ONNX file holds" in _refused(_Item(), ITEM, folder=tmp_path).message


def test_a_warning_of_the_users_own_code_is_not_hidden(tmp_path: Path) -> None:
    class Warns(_Item):
        def forward(self, item: Tensor) -> Tensor:
            import warnings

            warnings.warn("mind the gap", UserWarning, stacklevel=1)
            return super().forward(item)

    with pytest.warns(UserWarning, match="mind the gap"):
        _export(Warns(), ITEM, folder=tmp_path / "m")
