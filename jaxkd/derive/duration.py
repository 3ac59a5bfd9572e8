"""How long runs and what follows them take, from a few timed steps, and how many steps fit into a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxkd.derive import schedule
from jaxkd.derive.base import Choice
from jaxkd.errors import ConfigError

RESTART = 0.5  # of the seconds before a first step, those that are left where programs were compiled before
COMPARED = 25.0  # seconds to compile, time and draw one detector of a comparison, beside its detections
EXPORTED = 60.0  # seconds of an export and its check
USABLE = 0.95  # of the minutes that were asked for


@dataclass(frozen=True)
class Timing:
    """Seconds that a few steps of a run took."""

    starting: float  # before the first step and for the first evaluation: mostly compilation
    step: float  # the median of a step


@dataclass(frozen=True)
class Runs:
    """Runs of one kind, each with so many times the steps of a student's run."""

    timing: Timing
    number: int = 1
    length: int = 1

    def seconds(self, steps: int, *, pictures: int, batch: int) -> float:
        """Of all of them, where a student's run has so many steps; `pictures` are those of an evaluation."""
        steps *= self.length
        evaluations = math.ceil(steps / schedule.evaluations(steps, pictures=pictures, batch=batch).value)
        scoring = evaluations * self.evaluation(pictures, batch=batch)
        return self.number * (RESTART * self.timing.starting + steps * self.timing.step + scoring)

    def evaluation(self, pictures: int, *, batch: int) -> float:
        """Seconds to detect on so many pictures."""
        return schedule.FORWARD_SHARE * self.timing.step * math.ceil(pictures / batch)


def steps_in(
    minutes: float,
    seconds: Callable[[int], float],
    *,
    pictures: int,
    batch: int,
    anyway: bool = False,
) -> Choice:
    """The most steps of a student's run with which everything ends in so many minutes.

    Args:
      minutes: for everything.
      seconds: of everything, by the steps of a student's run; more steps take longer.
      pictures: in an epoch.
      batch: pictures in a step.
      anyway: take what fits, though it be less than `schedule.LEAST_EPOCHS`.

    Raises ConfigError where too few steps fit.
    """
    available = 60 * USABLE * minutes
    steps, beyond = 0, 1
    while seconds(beyond) <= available:
        steps, beyond = beyond, 2 * beyond
    while beyond - steps > 1:
        middle = (steps + beyond) // 2
        steps, beyond = (middle, beyond) if seconds(middle) <= available else (steps, middle)
    if steps < (1 if anyway else schedule.steps_of(schedule.LEAST_EPOCHS, pictures, batch=batch)):
        enough = seconds(schedule.steps_of(schedule.ENOUGH_EPOCHS, pictures, batch=batch)) / (60 * USABLE)
        raise ConfigError(
            f"In {minutes:g} minutes {steps} steps of a student can be made, which are less than "
            f"{schedule.LEAST_EPOCHS} epochs of {pictures} pictures; {schedule.ENOUGH_EPOCHS} take "
            f"{math.ceil(enough)} minutes."
        )
    return Choice(steps, f"what {minutes:g} minutes hold")
