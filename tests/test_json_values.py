import dataclasses
import json
import math

import numpy as np

from jaxkd import json_values


@dataclasses.dataclass(frozen=True)
class Record:
    share: float
    counts: np.ndarray


def test_what_is_written_can_be_read_anywhere():
    value = {
        "record": Record(math.nan, np.array([[1, 2]])),
        "rows": (1.5, np.float32(0.5), np.int64(3), float("inf"), True, None),
        8: np.array([0.25, np.nan]),
    }
    assert json.loads(json_values.dumps(value)) == {
        "record": {"share": None, "counts": [[1, 2]]},
        "rows": [1.5, 0.5, 3, None, True, None],
        "8": [0.25, None],
    }
