"""Length of a run, batch, learning rate, moving average and evaluations, by the number of pictures."""

import dataclasses
import math
from typing import Literal

from jaxkd import config as configs
from jaxkd.derive.base import Choice, rounded_up

COCO_EPOCHS, COCO_LIKE = 12, 20_000  # the 1x schedule, and from how many pictures on it is enough
MOST_EPOCHS, LEAST_STEPS = 80, 600
MEASURED_BATCH = 8  # at which the learning rates and the moving average were measured
BATCH = {"cpu": 8, "gpu": 16, "tpu": 16}
LEAST_BATCHES = 8  # of an epoch
EVALUATIONS, EVALUATION_SHARE = 10, 0.1  # most of a run, and most of its time
FORWARD_SHARE = 1 / 3  # of a training step's time, that of detecting on a batch
TEACHER_LENGTH = 2  # a teacher that is trained here learns for so many times the steps of its student
LEAST_EPOCHS, ENOUGH_EPOCHS = 6, 12  # of a run that fits into given minutes; of a good one

Start = Literal["random", "pretrained"]
RATES: dict[Start, tuple[float, int]] = {"random": (0.003, 50), "pretrained": (0.001, 100)}  # AdamW, warm-up steps


def batch(pictures: int, *, platform: str, devices: int) -> Choice:
    """Pictures a step: halved until an epoch has eight steps, and a multiple of the devices."""
    number = wanted = BATCH[platform]
    while number > 1 and number * LEAST_BATCHES > pictures:
        number //= 2
    words = f"the usual batch on a {platform}" if number == wanted else f"{LEAST_BATCHES} steps an epoch at least"
    if devices > 1:
        number, words = max(number // devices, 1) * devices, f"{words}, a multiple of {devices} devices"
    return Choice(number, words)


def epochs(pictures: int, *, batch: int, wanted: int = 0, times: int = 1) -> Choice:
    """Passes over so many training pictures: those `wanted`, or 0 to derive them; `times` as many for a teacher."""
    number = min(max(round(COCO_EPOCHS * (COCO_LIKE / pictures) ** (1 / 3)), COCO_EPOCHS), MOST_EPOCHS)
    words = f"{COCO_EPOCHS} from {COCO_LIKE} pictures on, for {pictures} more by the third root"
    if wanted:
        number, words = wanted, "as asked for"
    elif steps_of(number, pictures, batch=batch) < LEAST_STEPS:
        number, words = math.ceil(LEAST_STEPS * batch / pictures), f"{LEAST_STEPS} steps at least"
    return Choice(number * times, words if times == 1 else f"{times} times the student's {number}")


def steps_of(epochs: int, pictures: int, *, batch: int) -> int:
    """The steps of so many epochs."""
    return math.ceil(epochs * pictures / batch)


def length(train: configs.Recipe, pictures: int) -> int:
    """The steps that a recipe's component "train" says by its epochs or steps."""
    return steps_of(train.epochs, pictures, batch=train.batch) if train.epochs else train.steps


@dataclasses.dataclass(frozen=True)
class Rate:
    """Fields of `train.optimizer`."""

    kind: Literal["adamw"]
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    schedule: Literal["cosine"] = "cosine"
    clip_norm: float = 10.0


def rate(start: Start, *, batch: int) -> tuple[Rate, str]:
    """The optimizer's fields, and the reason of the learning rate.

    AdamW, from random numbers as measured on blood cells, from a pretrained backbone as measured on an aquarium, where
    SGD learned less in eight epochs (docs/derived.md).
    """
    measured, warmup_steps = RATES[start]
    value = Rate("adamw", _short(measured * math.sqrt(batch / MEASURED_BATCH)), 0.05, warmup_steps)
    return value, f"{measured:g} at a batch of {MEASURED_BATCH}, with the batch's root"


def ema(batch: int) -> Choice:
    """Decay of the moving average of the weights."""
    return Choice(
        round(0.998 ** (MEASURED_BATCH / batch), 6),
        f".998 at a batch of {MEASURED_BATCH}, as many pictures at another",
    )


def evaluations(steps: int, *, pictures: int, batch: int) -> Choice:
    """Steps between two evaluations on so many pictures: up to ten of a run, in at most a tenth of its time.

    To detect on a batch is taken to last FORWARD_SHARE of a training step.
    """
    evaluation = FORWARD_SHARE * math.ceil(pictures / batch)
    number = min(max(int(EVALUATION_SHARE * steps / evaluation), 1), EVALUATIONS)
    return Choice(rounded_up(steps / number, 1), f"{number} evaluations, which take at most a tenth of the time")


def _short(number: float) -> float:
    """The number with three digits."""
    return float(f"{number:.3g}")
