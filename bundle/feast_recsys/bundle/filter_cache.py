"""Filters that were asked for lately, with what they let pass: kept as long as the bundle, within so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

import pyarrow as pa

from feast_recsys.bundle.filter_plan import Joint, Member, Not, Plan, bitmap_of, joint_of, mask_of, plan_of
from feast_recsys.bundle.filters import Filter
from feast_recsys.bundle.index.allowed import FEW, Allowed, Without
from feast_recsys.bundle.index.slices import Slices
from feast_recsys.bundle.snapshot import Snapshot

# Of the bytes, those for single comparisons, a bit for each item, so they are many; and those for vectors.
_COMPARISONS_SHARE, _SLICES_SHARE = 0.15, 0.5

# What an entry takes beside its arrays, and each operand of its key; roughly, and rather more.
_ENTRY_BYTES, _OPERAND_BYTES = 1024, 128

_Value = TypeVar("_Value")


class FilterCache:
    """What the filters of one bundle let pass.

    Threads share it. Two that miss the same filter at once both evaluate it, to the same result.

    Args:
        snapshot: The catalogue of the bundle.
        limit: Bytes that may be kept; 0 keeps nothing.

    Attributes:
        snapshot: As given.
        slices: Keeps the vectors of what filters let pass; within the limit.
    """

    def __init__(self, snapshot: Snapshot, limit: int) -> None:
        self.snapshot = snapshot
        comparisons = int(limit * _COMPARISONS_SHARE)
        self.slices = Slices(int(limit * _SLICES_SHARE))
        self._wholes: _Lately[Allowed] = _Lately(limit - comparisons - int(limit * _SLICES_SHARE))
        self._comparisons: _Lately[pa.BooleanArray] = _Lately(comparisons)

    def allowed(self, condition: Filter) -> tuple[Allowed, bool]:
        """The items that pass, and whether that was known already.

        Filters that differ only in the order of operands, or in how they say the same comparison, share one answer.

        Raises:
            InvalidArgument: see `filter_plan.plan_of`.
        """
        plan = plan_of(condition, self.snapshot)
        known = self._wholes.get(plan)
        if known is not None:
            return known, True
        return self._keep(Allowed(mask_of(self._bitmap(plan)), self.slices, plan), plan), False

    def both(self, allow: Allowed | None, only: Allowed | None) -> Allowed | None:
        """What a request and a source allow together; None stands for everything.

        The filter is that of both if both have one and nothing else; it is kept then as if it had been asked for. What
        a request leaves out beside its filter stays beside it.

        Args:
            allow: Of the request.
            only: Of the source; leaves nothing out beside its filter.
        """
        if allow is None or only is None:
            return only if allow is None else allow
        if isinstance(allow, Without):
            passing = only if allow.base is None else self._joint(allow.base, only)
            return passing.without(allow.excluded)
        return self._joint(allow, only)

    def _joint(self, allow: Allowed, only: Allowed) -> Allowed:
        if allow.condition is None or only.condition is None:
            return Allowed(allow.mask & only.mask)
        plan = joint_of("and", [allow.condition, only.condition])
        known = self._wholes.get(plan)
        return known if known is not None else self._keep(Allowed(allow.mask & only.mask, self.slices, plan), plan)

    def _keep(self, allowed: Allowed, plan: Plan) -> Allowed:
        n = len(allowed)
        # Rows allowed, or blocked as well: what an index may ask for later is paid for from the start.
        rows = len(allowed.rows) if allowed.count < FEW * n else n
        self._wholes.put(plan, allowed, allowed.mask.nbytes + allowed.bits.nbytes + 8 * rows)
        return allowed

    @property
    def bytes(self) -> int:
        """Bytes that are kept, roughly."""
        return self._wholes.bytes + self._comparisons.bytes + self.slices.bytes

    def _bitmap(self, plan: Plan) -> pa.BooleanArray:
        if isinstance(plan, Not | Joint):
            return bitmap_of(plan, self.snapshot, self._bitmap)
        bitmap = self._comparisons.get(plan)
        if bitmap is None:
            bitmap = bitmap_of(plan, self.snapshot)
            self._comparisons.put(plan, bitmap, bitmap.nbytes)
        return bitmap


class _Lately(Generic[_Value]):
    """A dictionary of limited size that forgets what was not asked for the longest time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[Plan, tuple[_Value, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: Plan) -> _Value | None:
        """The value; None if it is not there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Plan, value: _Value, size: int) -> None:
        """Keeps a value of `size` bytes, and forgets others for it; one that is too large for the whole is not kept."""
        size += _key_bytes(key)
        if size > self._limit:
            return
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = (value, size)
            self.bytes += size
            while self.bytes > self._limit:
                _, (_, freed) = self._entries.popitem(last=False)
                self.bytes -= freed


def _key_bytes(plan: Plan) -> int:
    if isinstance(plan, Not):
        return _ENTRY_BYTES + _key_bytes(plan.part)
    if isinstance(plan, Joint):
        return _ENTRY_BYTES + sum(_key_bytes(part) for part in plan.parts)
    operands = plan.operands if isinstance(plan, Member) else (plan.bound,)
    texts = sum(4 * len(operand) for operand in operands if isinstance(operand, str))
    return _ENTRY_BYTES + _OPERAND_BYTES * len(operands) + texts
