"""Repeats of pictures of rare classes; what a plan is without them is in test_loader.py."""

import dataclasses

import numpy as np
from test_loader import SMALL, MixedSource

from jaxkd.data.loader import train_batches
from jaxkd.data.plan import plan, repeats


def rare(count=20, *, crowd=False):
    """A source of which one picture has a second class too."""
    source = MixedSource(count)
    one = dataclasses.replace(source.records[5], labels=np.array([0, 1], np.int32), crowd=np.array([False, crowd]))
    source.records = (*source.records[:5], one, *source.records[6:])
    return source


def test_repeats_golden():
    found = repeats(rare().records, threshold=0.2)  # the class is on a share of .05, so its picture is shown twice
    np.testing.assert_allclose(found, np.where(np.arange(20) == 5, 2.0, 1.0))
    assert repeats(rare().records, threshold=0.05).tolist() == [1.0] * 20
    assert repeats(rare().records, threshold=1.0)[5] == 4.0  # at most
    assert repeats(rare(crowd=True).records, threshold=1.0).tolist() == [1.0] * 20


def test_rare_pictures_are_shown_more_often_and_all_of_them():
    source = rare()
    drawn = plan(source, SMALL, seed=1, steps=210, batch=1, repeat_threshold=0.1125)
    shown = np.bincount(drawn.records.ravel(), minlength=20)
    assert 13 <= shown[5] <= 17  # ten epochs, 1.5 times each
    others = np.delete(shown, 5)
    assert others.min() >= 9 and others.max() <= 11
    again = plan(source, SMALL, seed=1, steps=70, batch=1, repeat_threshold=0.1125)
    np.testing.assert_array_equal(again.records, drawn.records[:70])
    other = plan(source, SMALL, seed=2, steps=70, batch=1, repeat_threshold=0.1125)
    assert not np.array_equal(other.records, again.records)


def test_the_loader_repeats_as_its_config_says():
    source = rare()
    config = dataclasses.replace(SMALL, repeat_threshold=1.0)
    order = plan(source, SMALL, seed=0, steps=24, batch=2, repeat_threshold=1.0)
    batches = train_batches(source, config, seed=0, steps=24, batch=2)
    np.testing.assert_array_equal([batch.ids for batch in batches], order.records)
    assert (order.records == 5).sum() >= 4
