"""What a run says of distillation terms that teach nothing in its first step."""

from collections.abc import Mapping
from typing import Any

from jaxkd import phrases
from jaxkd.config import module_of
from jaxkd.distill import base
from jaxkd.train.probe import PREFIX


def sentences(methods: Mapping[str, Any], values: Mapping[str, float], *, step: int) -> list[str]:
    """One sentence for each kind of term of these methods that is 0, or whose gradient ratio is.

    Args:
      methods: their Configs, by name.
      values: what the step reports, with the gradient ratios where they were measured.
      step: its number, from 1 on.
    """
    return [line for name, config in methods.items() for line in _of_method(name, config, values, step)]


def _of_method(method: str, config: Any, values: Mapping[str, float], step: int) -> list[str]:
    own = {name: value for name, value in values.items() if name.startswith(f"{method}/")}
    reasons = _reasons(config, own)
    by_kind: dict[str, list[str]] = {}
    for name in own:
        by_kind.setdefault(base.kind(name), []).append(name)
    lines = []
    for kind, names in by_kind.items():
        short = kind.removeprefix(f"{method}/")
        if short == "decay" or (reasons is not None and short not in reasons):
            continue  # no term
        zero = [name for name in names if own[name] == 0]
        reason = (reasons or {}).get(short, "")
        if zero:
            verb, why = "is" if len(zero) == 1 else "are", f": {reason}" if reason else ""
            lines.append(f"{phrases.listed(zero)} {verb} 0 in step {step}{why}.")
        if len(zero) < len(names) and values.get(f"{PREFIX}/{kind}") == 0:
            lines.append(
                f"{kind} is not 0 in step {step} and has no gradient at the student's neck, as a term of backbone maps."
            )
    return lines


def _reasons(config: Any, own: Mapping[str, float]) -> dict[str, str] | None:
    """The method's reasons for terms that are 0, by kind; None where it has none, and its terms are not known."""
    module = module_of(config)
    if not hasattr(module, "zero_reasons"):
        return None
    metrics: dict[str, float] = {}
    for name, value in own.items():  # several sets of regions have a number after the name
        short = name.split("/")[1]
        metrics[short] = min(value, metrics.get(short, value))
    return module.zero_reasons(config, metrics)
