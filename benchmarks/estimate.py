"""How long a run will take: turns times their seconds, and what comes around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import NAIVE, NAIVE_FROZEN
from benchmarks.floors import RANK_FLOORS, RETRIEVE_FLOORS
from benchmarks.matrix import Plan, Question
from benchmarks.rounds import FLOOR_SHARE, WARM_UP, Pace

# Of the two-core machine of docs/performance.md: seconds to start a server beside others, and for the swap itself.
START = 9.0
SWAP = 4.0
# A naive peer ends the calls that are under way when its turn is over: seconds for each of their candidates.
NAIVE_SECONDS = 0.0002


@dataclass(frozen=True)
class Estimate:
    """What a run consists of.

    Attributes:
        turns: Of contenders, in all cells.
        starts: Of servers.
        seconds: Altogether, about; without making the world.
    """

    turns: int
    starts: int
    seconds: float

    def text(self, pace: Pace) -> str:
        """For people."""
        minutes = max(1, round(self.seconds / 60))
        return (
            f"about {minutes} minute{'s' if minutes > 1 else ''}: {self.turns} turns of {pace.seconds:g} s and "
            f"{self.starts} starts of servers, on a machine as slow as the one of docs/performance.md"
        )


def estimate(plans: Sequence[Plan], there: Mapping[Plan, Sequence[str]], pace: Pace, *, lifecycle: bool) -> Estimate:
    """Adds everything up.

    Args:
        plans: What is measured.
        there: By plan the contenders that are started.
        pace: How long and how often.
        lifecycle: Whether start-up and swap are measured, too.
    """
    turns, starts, seconds = 0, 0, 0.0
    for plan in plans:
        starts += len(there[plan])
        for question in plan.questions:
            who = [name for name in question.who if name in there[plan]]
            turns += pace.rounds * len(who)
            outlasted = sum(_outlasted(question, name) for name in who)
            seconds += pace.rounds * (len(who) * pace.seconds + _floors(question, pace) + outlasted)
            seconds += len(who) * WARM_UP + outlasted
    if lifecycle:
        starts += pace.rounds + 1
        seconds += pace.steady / 2 + pace.swaps * (pace.steady + SWAP)
    return Estimate(turns, starts, seconds + starts * START)


def _floors(question: Question, pace: Pace) -> float:
    if question.concurrency > 1:
        return 0.0
    return len(RETRIEVE_FLOORS if question.candidates is None else RANK_FLOORS) * FLOOR_SHARE * pace.seconds


def _outlasted(question: Question, name: str) -> float:
    if name not in (NAIVE, NAIVE_FROZEN) or question.candidates is None:
        return 0.0
    return question.concurrency * question.candidates * NAIVE_SECONDS
