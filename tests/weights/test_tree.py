import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.errors import WeightsError
from jaxkd.weights.tree import flatten, match, unflatten

TREE = {"stem": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}, "head": {"kernel": jnp.ones((3, 2))}}


def given(**changes):
    arrays = {"stem/kernel": np.full((3, 3), 5.0), "stem/bias": np.full(3, 6.0), "head/kernel": np.full((3, 2), 7.0)}
    arrays.update({name.replace("__", "/"): value for name, value in changes.items()})
    return {name: value for name, value in arrays.items() if value is not None}


def test_flatten_and_back():
    leaves = flatten(TREE)
    assert list(leaves) == ["stem/kernel", "stem/bias", "head/kernel"]
    assert jax.tree.structure(unflatten(leaves)) == jax.tree.structure(TREE)
    for clash in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
        with pytest.raises(WeightsError, match="leaf"):
            unflatten(clash)


def test_all_leaves_are_filled_in_the_wanted_type():
    shapes = jax.eval_shape(lambda: TREE)
    for wanted in (TREE, shapes):
        tree, report = match(wanted, given())
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}
        assert (tree["stem"]["kernel"] == 5).all() and (tree["head"]["kernel"] == 7).all()
        assert set(report.matched) == set(flatten(TREE)) and not (report.missing + report.misshapen + report.unused)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (given(stem__bias=None), "stem/bias is missing"),
        (given(stem__bias=None, stem__bais=np.zeros(3)), r"stem/bias is missing \(closest: stem/bais\)"),
        (given(stem__bias=None, stem__bais=np.zeros(3)), r"stem/bais is not used \(closest: stem/bias\)"),
        (given(extra=np.zeros(3)), "extra is not used"),
        (given(head__kernel=np.zeros((2, 3))), r"head/kernel has the shape \(2, 3\) where \(3, 2\) is wanted"),
    ],
)
def test_every_miss_is_refused(arrays, words):
    with pytest.raises(WeightsError, match=words):
        match(TREE, arrays)


def test_ten_misses_are_shown_and_the_others_counted():
    with pytest.raises(WeightsError, match=r"x9 is not used.*; and 3 more") as refusal:
        match(TREE, given(**{f"x{index}": np.zeros(1) for index in range(13)}))
    assert str(refusal.value).count("not used") == 10 and "\n" not in str(refusal.value)


def test_allowed_misses_keep_what_was_there_and_are_reported():
    arrays = given(stem__bias=None, head__kernel=np.zeros((3, 9)), fc__kernel=np.zeros(2))
    tree, report = match(TREE, arrays, allow_unused=["fc/*"], allow_missing=["head/*", "*/bias"])
    assert (tree["head"]["kernel"] == 1).all() and (tree["stem"]["bias"] == 0).all()
    assert (report.matched, report.missing) == (("stem/kernel",), ("stem/bias",))
    assert (report.misshapen, report.unused) == (("head/kernel",), ("fc/kernel",))
    assert str(report).splitlines() == [
        "1 leaves matched",
        "missing   stem/bias",
        "misshapen head/kernel",
        "unused    fc/kernel",
    ]
    with pytest.raises(WeightsError, match="stem/bias"):
        match(TREE, arrays, allow_unused=["fc/*"], allow_missing=["head/*"])
