"""Factors on the weights of distillation terms, from the measured ratios of their gradients to the detection loss's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxkd import phrases
from jaxkd.distill import base
from jaxkd.ranges import Count, NonNegative, PartShare
from jaxkd.types import Term


@dataclass(frozen=True)
class Balance:
    """A limit on the gradients of distillation terms, by factors on their weights."""

    target: NonNegative = 0.0
    """Largest gradient of a kind of term at the student's neck before its decay, relative to that of all detection
    terms; weights of kinds that are above it are lowered. 0 for weights as the recipe has them."""
    batches: Count = 4
    """Batches of a measurement; the median counts. Where they differ in size, those of the first one's size."""
    again: tuple[PartShare, ...] = (0.02, 0.05, 0.1, 0.2)
    """Shares of the run after which gradients are measured again; the first measurement is before the first step."""


class Balancer:
    """The factors of a run, by METHOD/KIND: measured before the first step, and again at the steps that Balance sets.

    They belong to the state of the run: a checkpoint has them, so that a run that goes on has those that it had.
    """

    def __init__(self, config: Balance, *, steps: int, say: Callable[[str], None]):
        self._config, self._say = config, say
        self._steps = {math.ceil(round(share * steps, 6)) for share in (0.0, *config.again)} if config.target else set()
        self.factors: dict[str, float] = {}

    def due(self, step: int) -> bool:
        """Whether gradients are to be measured before step `step`, counted from 0."""
        return step in self._steps

    def measure(self, step: int, batches: Sequence[Mapping[str, Any]]) -> None:
        """Sets the factors by the ratios of each kind on some batches, with factors and decays of 1, and says them."""
        number = phrases.counted(len(batches), "batch")
        self._say(f"Gradients at the student's neck before step {step + 1}, the median of {number} (train.balance):")
        for kind in batches[0]:
            ratio = float(np.median([ratios[kind] for ratios in batches]))
            self.factors[kind] = factor(ratio, target=self._config.target)
            self._say(f"  {sentence(kind, ratio, self.factors[kind])}")

    def reported(self) -> dict[str, float]:
        """The factors as numbers of the log."""
        return {f"balance/{kind}": value for kind, value in self.factors.items()}

    def scheduled(self) -> dict[str, np.float32]:
        """The factors as arguments of the step."""
        return {kind: np.float32(value) for kind, value in self.factors.items()}


def factor(ratio: float, *, target: float) -> float:
    """The factor that lowers a ratio above `target` to it; 1 for the others.

    A small gradient is never raised: it is small where gates are closed, where there are no prototypes yet, or where
    the detection loss is as large as in the first steps, and it would be far too large a little later.
    """
    return target / ratio if math.isfinite(ratio) and ratio > target else 1.0


def sentence(kind: str, ratio: float, factor: float) -> str:
    """What a measurement found for a kind of term, and what follows for its weight."""
    if ratio == 0.0:
        return f"{kind}: no gradient, weight unchanged."
    if not math.isfinite(ratio):
        return f"{kind}: its gradient is not finite, weight unchanged."
    change = f"times {factor:.2g}" if factor < 1.0 else "unchanged"
    return f"{kind}: gradient {ratio:.2g} times the detection loss's, weight {change}."


def balanced(terms: Mapping[str, Term], factors: Mapping[str, Any]) -> dict[str, Term]:
    """The terms METHOD/NAME, each times the factor of its kind if there is one."""
    return {
        name: term.replace(total=factors[kind] * term.total) if (kind := base.kind(name)) in factors else term
        for name, term in terms.items()
    }
