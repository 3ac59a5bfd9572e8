"""Converts records, arrays and mappings to JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`plain(value)` as strict JSON; numbers that are not finite become null."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """Records and mappings as dicts, arrays and sequences as lists, None for numbers that are not finite."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
