"""The order in which a run sees the pictures of a source, as a function of the seed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from jaxkd.data.base import Record, Source
from jaxkd.data.canvas import Sizes, buckets_of

ORDER, AUGMENT, UNLABELLED, SIZE = 0, 1, 2, 3  # uses of random numbers, as part of their seeds
MOST_REPEATS = 4.0  # times that a picture of a rare class is shown in an epoch


@dataclasses.dataclass(frozen=True)
class Plan:
    """The pictures of a run, in order."""

    records: Int32[np.ndarray, "steps batch"]  # index in the source
    buckets: Int32[np.ndarray, "steps"]


def plan(source: Source, sizes: Sizes, *, seed: int, steps: int, batch: int, repeat_threshold: float = 0.0) -> Plan:
    """The records of each step of a run; the same for all processes, and a longer run only adds steps.

    Each epoch is a permutation of all records, in which those of rare classes occur several times where
    `repeat_threshold` is above 0 (`repeats`). Records queue by bucket; as soon as a bucket has a full batch, that
    becomes the next step. Records that are left wait for the next epoch. Where steps decide on buckets, all records
    are in one queue, and each step draws its bucket.
    """
    sizes.check()
    bucket_of = buckets_of(source, sizes, short=max(sizes.short))
    times = repeats(source.records, threshold=repeat_threshold) if repeat_threshold else None
    leftover = [np.zeros(0, np.int64) for _ in sizes.buckets]
    records, buckets = np.zeros((0, batch), np.int64), np.zeros(0, np.int64)
    epoch_records, epoch_buckets, planned, epoch = [], [], 0, 0
    while planned < steps:
        order = _order(np.random.default_rng((seed, ORDER, epoch)), len(bucket_of), times)
        batches, bucket_indices, completion_times = [], [], []
        for bucket, queue in enumerate(leftover):
            arrivals = np.flatnonzero(bucket_of[order] == bucket)
            queued = np.concatenate([queue, order[arrivals]])
            count = len(queued) // batch
            completed = np.arange(1, count + 1) * batch - 1 - len(queue)
            batches.append(queued[: count * batch].reshape(count, batch))
            bucket_indices.append(np.full(count, bucket))
            completion_times.append(arrivals[completed])
            leftover[bucket] = queued[count * batch :]
        order_of_steps = np.argsort(np.concatenate(completion_times), kind="stable")
        epoch_records.append(np.concatenate(batches)[order_of_steps])
        epoch_buckets.append(np.concatenate(bucket_indices)[order_of_steps])
        planned += len(order_of_steps)
        epoch += 1
    records = np.concatenate([records, *epoch_records])[:steps].astype(np.int32)
    buckets = np.concatenate([buckets, *epoch_buckets])[:steps]
    if sizes.bucket_by == "step":
        drawn = np.random.default_rng((seed, SIZE)).random(steps)
        buckets = np.floor(drawn * len(sizes.buckets))
    return Plan(records=records, buckets=buckets.astype(np.int32))


def _order(rng: np.random.Generator, count: int, times: Float64[np.ndarray, "n"] | None) -> Int64[np.ndarray, "m"]:
    """The records of an epoch: each once, or its whole number of `times` and once more by chance."""
    if times is None:
        return rng.permutation(count)
    whole = np.floor(times)
    shown = whole + (rng.random(count) < times - whole)
    return rng.permutation(np.repeat(np.arange(count), shown.astype(int)))


def repeats(records: Sequence[Record], *, threshold: float) -> Float64[np.ndarray, "n"]:
    """How often each record is shown in an epoch on average: by its rarest class, from 1 to 4.

    A class on the share f of all pictures asks for sqrt(threshold / f), or 1 where that is less (Gupta et al. 2019,
    LVIS, section 4). Crowds do not count.
    """
    present = [np.unique(record.labels[~record.crowd]) for record in records]
    labels, pictures = np.unique(np.concatenate(present), return_counts=True)
    rate = {
        int(label): min(max(1.0, np.sqrt(threshold * len(records) / count)), MOST_REPEATS)
        for label, count in zip(labels, pictures, strict=True)
    }
    return np.array([max((rate[int(label)] for label in one), default=1.0) for one in present], np.float64)


def mixed(labelled: Plan, others: Int32[np.ndarray, "n"], *, seed: int, batch: int, first: int) -> Plan:
    """A plan with pictures of a second source in each step, so that a step has `batch` of both.

    Those of a step are of its bucket where the second source has such pictures, and else any. Each bucket goes through
    its pictures in epochs of its own, so a longer run only adds steps.

    Args:
      labelled: the plan of the first source, with fewer than `batch` pictures a step.
      others: the bucket of each record of the second source.
      seed: decides the order.
      batch: pictures of a step.
      first: index of the second source's first record.
    """
    steps, width = labelled.records.shape
    more = batch - width
    chosen = np.zeros((steps, more), np.int32)
    for bucket in np.unique(labelled.buckets):
        members = np.flatnonzero(others == bucket)
        members = members if len(members) else np.arange(len(others))
        rows = np.flatnonzero(labelled.buckets == bucket)
        epochs = -(-len(rows) * more // len(members))
        order = [
            np.random.default_rng((seed, UNLABELLED, int(bucket), epoch)).permutation(members)
            for epoch in range(epochs)
        ]
        chosen[rows] = np.concatenate(order)[: len(rows) * more].reshape(-1, more)
    is_other = _spread(more, batch)
    records = np.zeros((steps, batch), np.int32)
    records[:, ~is_other], records[:, is_other] = labelled.records, first + chosen
    return Plan(records=records, buckets=labelled.buckets)


def _spread(count: int, batch: int) -> Bool[np.ndarray, "batch"]:
    """Which places of a batch are of the second source: evenly spread over parts in order, as devices take them.

    Half of them alternate such that equal parts of neighbours and of every second, fourth, ... place, as micro-batches
    take them, have as many of either source: by the parity of the ones in the place's binary digits (Thue-Morse).
    """
    places = np.arange(batch)
    if 2 * count == batch:
        return np.array([place.bit_count() % 2 == 1 for place in places.tolist()])
    return (places + 1) * count // batch > places * count // batch
