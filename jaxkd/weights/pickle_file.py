"""Model files that are plain pickles: of NumPy arrays, as detectron2 and Caffe2 write them, or of torch tensors."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxkd.errors import WeightsError
from jaxkd.weights import contents, torch_legacy, unpickle
from jaxkd.weights.contents import LIMIT, Contents
from jaxkd.weights.pickled_torch import TORCH, Storage
from jaxkd.weights.unpickle import Unread

STORAGES = 10_000  # of a pickle, each a small file within it
STORAGE_INSTRUCTIONS = 100  # of the pickles of one storage


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """The contents of a pickle; nothing in it is executed.

    Raises WeightsError where the file is too large, ValueError where it is broken, and as `unpickle.load` does.
    """
    size = path.stat().st_size
    if size > LIMIT:
        raise WeightsError(f"{path} has {size} bytes, more than the {LIMIT} allowed; convert it to .safetensors.")
    data = path.read_bytes()
    yield contents.of_pickle(unpickle.load(data, _makers(), size=size), path=path)


def _makers() -> dict[str, Callable[..., Any] | None]:
    remaining = iter(range(STORAGES))

    def storage_of(data: Any) -> Storage | Unread:
        """A storage that was pickled without torch.save, which is a file in torch's legacy format."""
        if type(data) is not bytes or next(remaining, None) is None:
            raise ValueError("it holds a storage in an odd form, or too many")
        storage = torch_legacy.load(io.BytesIO(data), size=len(data), max_instructions=STORAGE_INSTRUCTIONS).value
        return storage if type(storage) is Storage else Unread("torch.storage")

    return {**TORCH, "torch.storage._load_from_bytes": storage_of}
