"""What requests may give, and whether it fits what models take."""

from __future__ import annotations

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import InvalidRepository, InvalidSignature
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.features.repo import EntityKey
from feast_recsys.server.state import Slot
from feast_recsys.server.users import Reading


def add_request_fields(slots: dict[str, Slot], reading: Reading) -> None:
    """What on-demand views take from the request is given like the models' own `request:` inputs.

    Raises:
        InvalidRepository: a view takes it as another type than a model or another view.
    """
    for name, field in reading.reader.plan.request_fields.items():
        slot = slots.setdefault(name, Slot(f"request:{name}", field.kind.dtype, field.kind.is_list))
        if slot.dtype is not field.kind.dtype or slot.is_list is not field.kind.is_list:
            raise InvalidRepository(
                f"on-demand feature view {field.view!r} takes {name!r} from the request as another type than "
                f"{slot.feature} ({shape_of(slot)} of {slot.dtype.value}); rename one of them",
                field=name,
            )


def add_request_slot(slots: dict[str, Slot], spec: Input) -> None:
    """What an input takes from the request, once for all inputs that take it.

    Raises:
        InvalidSignature: two inputs take it as different types.
    """
    name = spec.feature.partition(":")[2]
    slot = slots.setdefault(name, Slot(spec.feature, spec.dtype, spec.is_list))
    check_fit(slot, spec)


def check_key(spec: Input, key: EntityKey) -> None:
    """Holds an input that takes an id against the entity.

    Raises:
        InvalidSignature: it takes another id, or as another type.
    """
    if spec.feature != f"entity:{key.join_key}":
        raise InvalidSignature(
            f"input {spec.name!r} takes {spec.feature}, but the {spec.side.value}'s join key is {key.join_key}",
            field=spec.name,
        )
    check_fit(Slot(spec.feature, key.dtype, False), spec)


def check_fit(slot: Slot, spec: Input) -> None:
    """Holds an input against the values that fill it.

    Raises:
        InvalidSignature: what a request would raise; names feature and input.
    """
    to_tensor(Column.absent(slot.dtype, 0, is_list=slot.is_list), spec)


def shape_of(slot: Slot) -> str:
    """Whether a slot takes a list, in a word."""
    return "list" if slot.is_list else "scalar"
