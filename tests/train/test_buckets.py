"""A run over landscape and portrait pictures: one bucket a step, and the same one for every process."""

import mixed
import numpy as np
import pytest
import tiny

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.errors import ConfigError

BUCKETS = (tiny.SIZE, tiny.SIZE[::-1])
STEPS, BATCH = 8, 4


@pytest.fixture(scope="module")
def source():
    return mixed.load(mixed.Config(count=12))


@pytest.fixture(scope="module")
def loader_config():
    return configs.build(tiny.loader(buckets=BUCKETS, flip=0.0))


def test_every_step_lies_in_one_bucket_and_both_are_seen(source, loader_config):
    plan = loader.plan(source, loader_config, seed=0, steps=STEPS, batch=BATCH)
    assert set(plan.buckets) == {0, 1}
    for bucket, records in zip(plan.buckets, plan.records, strict=True):
        assert {(source.records[index].height, source.records[index].width) for index in records} == {BUCKETS[bucket]}


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_process_sees_its_rows_of_the_same_bucket(source, loader_config, processes):
    plan = loader.plan(source, loader_config, seed=0, steps=STEPS, batch=BATCH)
    options = {"seed": 0, "steps": STEPS, "batch": BATCH, "processes": processes}
    parts = [loader.train_batches(source, loader_config, process=process, **options) for process in range(processes)]
    for bucket, records in zip(plan.buckets, plan.records, strict=True):
        batches = [next(part) for part in parts]
        assert {batch.images.shape[1:3] for batch in batches} == {BUCKETS[bucket]}
        np.testing.assert_array_equal(np.concatenate([batch.ids for batch in batches]), records)
    for part in parts:
        part.close()


def test_a_step_may_draw_its_bucket(source):
    """The same for every process and for a longer run; a bucket that is listed twice is drawn twice as often."""
    buckets = ((64, 64), (32, 32), (64, 64))
    config = configs.build(tiny.loader(buckets=buckets, flip=0.0, fit="stretch", bucket_by="step"))
    long = loader.plan(source, config, seed=0, steps=300, batch=BATCH)
    steps = 2 + int(np.argmax(long.buckets == 1))
    plan = loader.plan(source, config, seed=0, steps=steps, batch=BATCH)
    np.testing.assert_array_equal(plan.buckets, long.buckets[:steps])
    assert 0.25 < np.mean(long.buckets == 1) < 0.42 and set(long.buckets) == {0, 1, 2}
    batches = loader.train_batches(source, config, seed=0, steps=steps, batch=BATCH)
    assert set(batches.sizes) == {buckets[bucket] for bucket in plan.buckets}
    for bucket, batch in zip(plan.buckets, batches, strict=True):
        assert batch.images.shape[1:3] == buckets[bucket]
        np.testing.assert_array_equal(batch.sizes, [buckets[bucket]] * BATCH)
    evaluated = list(loader.eval_batches(source, config, batch=BATCH))
    assert {batch.images.shape[1:3] for batch in evaluated} == {(64, 64)}


def test_drawn_buckets_are_for_stretched_pictures(source):
    config = configs.build(tiny.loader(buckets=BUCKETS, bucket_by="step"))
    with pytest.raises(ConfigError, match=r"is for pictures that are stretched, and data\.loader\.fit is 'keep'"):
        loader.plan(source, config, seed=0, steps=STEPS, batch=BATCH)
