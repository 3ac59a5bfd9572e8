import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from jaxkd.ops import sample as ops

KEY = jax.random.key(0)


def split(kinds):
    return jnp.array([kind == "p" for kind in kinds]), jnp.array([kind == "n" for kind in kinds])


def draw(kinds, size, fraction, key=KEY, ids=None):
    positive, negative = split(kinds)
    return ops.sample(key, positive=positive, negative=negative, size=size, fraction=fraction, ids=ids)


def slow_sample(kinds, size, fraction, key):
    lots = [int(jax.random.bits(jax.random.fold_in(key, i), dtype=jnp.uint32)) for i in range(len(kinds))]
    order = sorted(range(len(kinds)), key=lambda i: -lots[i])
    positives = [i for i in order if kinds[i] == "p"][: int(size * fraction)]
    return positives, [i for i in order if kinds[i] == "n"][: size - len(positives)]


@pytest.mark.parametrize(
    ("kinds", "positives", "negatives"),
    [
        ("ppppnnnn", 2, 2),  # half of each
        ("pnnnnnnn", 1, 3),  # negatives fill up
        ("ppppppnx", 2, 1),  # positives do not
        ("xxxxxxxx", 0, 0),
        ("pn", 1, 1),  # fewer candidates than places
    ],
)
def test_golden_counts(kinds, positives, negatives):
    chosen = draw(kinds, size=4, fraction=0.5)
    total = positives + negatives
    np.testing.assert_array_equal(chosen.positive, np.arange(4) < positives)
    np.testing.assert_array_equal(chosen.valid, np.arange(4) < total)
    picked = np.array(chosen.index)
    assert "".join(kinds[i] for i in picked[:total]) == "p" * positives + "n" * negatives
    assert len(set(picked[:total].tolist())) == total
    assert not np.any(picked[total:])


@settings(max_examples=15, deadline=None)
@given(
    kinds=st.text("pnx", min_size=12, max_size=12), fraction=st.sampled_from([0.0, 0.25, 1.0]), seed=st.integers(0, 99)
)
def test_is_the_slow_one(kinds, fraction, seed):
    key = jax.random.key(seed)
    chosen = draw(kinds, size=8, fraction=fraction, key=key)
    positives, negatives = slow_sample(kinds, 8, fraction, key)
    np.testing.assert_array_equal(chosen.index[chosen.valid], positives + negatives)
    assert int(chosen.positive.sum()) == len(positives)


@settings(max_examples=10, deadline=None)
@given(kinds=st.text("pnx", min_size=8, max_size=8), gaps=st.lists(st.integers(0, 8), min_size=4, max_size=4))
def test_padded_candidates_change_nothing(kinds, gaps):
    """Candidates put in between, as a wider map does, leave the draw alone when names are given."""
    padded, names = list(kinds), list(range(8))
    for number, gap in enumerate(gaps):
        padded.insert(gap, "x")
        names.insert(gap, 100 + number)
    names = np.array(names)
    plain = draw(kinds, size=4, fraction=0.5, ids=jnp.arange(8, dtype=jnp.uint32))
    wide = draw("".join(padded), size=4, fraction=0.5, ids=jnp.array(names, jnp.uint32))
    np.testing.assert_array_equal(plain.valid, wide.valid)
    np.testing.assert_array_equal(plain.positive, wide.positive)
    np.testing.assert_array_equal(plain.index[plain.valid], names[np.array(wide.index)][wide.valid])


def test_every_candidate_is_as_likely():
    positive, negative = split("pppppnnnnn")
    keys = jax.random.split(KEY, 2000)
    chosen = jax.jit(jax.vmap(lambda key: ops.sample(key, positive=positive, negative=negative, size=4, fraction=0.5)))(
        keys
    )
    share = np.bincount(np.array(chosen.index).ravel(), minlength=10) / len(keys)
    np.testing.assert_allclose(share, 0.4, atol=0.05)


def test_refuses_misuse():
    with pytest.raises(ValueError, match="fraction"):
        draw("pn", size=4, fraction=1.5)
    with pytest.raises(ValueError, match="size"):
        draw("pn", size=0, fraction=0.5)
