import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.nets import fpn
from jaxkd.nets.heads import BoxHead, RPNHead

SIDES = {4: (19, 13), 8: (10, 7), 16: (5, 4), 32: (3, 2), 64: (2, 1), 128: (1, 1)}  # of a picture of 75 x 50


def levels(strides=(4, 8, 16, 32)):
    return tuple(jax.ShapeDtypeStruct((1, *SIDES[stride], 8 * stride), jnp.float32) for stride in strides)


@pytest.mark.parametrize(
    ("config", "dtype", "strides", "count"),
    [
        # 1x1 and 3x3 convolutions with bias: 480 inputs in all, 4 outputs; P6 and P7 from C5 (256 wide) or P5
        (fpn.Config(channels=16), "float32", (4, 8, 16, 32, 64), 480 * 16 + 4 * 16 + 4 * (9 * 16 * 16 + 16)),
        (fpn.Config(channels=16, extra="none"), "float32", (4, 8, 16, 32), 480 * 16 + 4 * 16 + 4 * (9 * 16 * 16 + 16)),
        (
            fpn.Config(channels=16, extra="conv_c5", first=1),
            "float32",
            (8, 16, 32, 64, 128),
            448 * 16 + 3 * 16 + 3 * (9 * 16 * 16 + 16) + 9 * 256 * 16 + 16 + 9 * 16 * 16 + 16,
        ),
        (
            fpn.Config(channels=16, extra="conv_p5", first=1, norm="group"),
            "bfloat16",
            (8, 16, 32, 64, 128),
            448 * 16 + 3 * 32 + 5 * (9 * 16 * 16 + 32),
        ),
    ],
)
def test_pyramid_of_odd_sizes(config, dtype, strides, count):
    neck = fpn.build(config, dtype=dtype)
    extents = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(neck.init, jax.random.key(0), levels(), extents)
    assert fpn.strides(config) == strides
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    out = jax.eval_shape(neck.apply, params, levels(), extents)
    assert [level.shape for level in out] == [(1, *SIDES[stride], 16) for stride in strides]
    assert {str(level.dtype) for level in out} == {dtype}


def test_top_down_sum_by_hand():
    config = fpn.Config(channels=1, extra="pool")
    neck = fpn.build(config, backbone_strides=(1, 2))
    fine, coarse = np.zeros((1, 3, 3, 1), np.float32), np.array([[1, 2], [3, 4]], np.float32)[None, :, :, None]
    identity = np.zeros((3, 3, 1, 1), np.float32)
    identity[1, 1] = 1.0
    params = {
        f"{kind}_{index}": {"kernel": identity if kind == "output" else np.ones((1, 1, 1, 1)), "bias": np.zeros(1)}
        for kind in ("lateral", "output")
        for index in (0, 1)
    }
    out = jax.jit(neck.apply)({"params": params}, (fine, coarse), np.array([[3, 3]], np.int32))
    np.testing.assert_array_equal(out[0][0, :, :, 0], [[1, 1, 2], [1, 1, 2], [3, 3, 4]])
    np.testing.assert_array_equal(out[1][0, :, :, 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(out[2][0, :, :, 0], [[1]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heads_answer_in_float32_with_the_reference_sizes(dtype):
    rpn = RPNHead(channels=256, anchors=3, dtype=dtype)
    level = jax.ShapeDtypeStruct((2, 5, 4, 256), jnp.dtype(dtype))
    valid = jax.ShapeDtypeStruct((2, 5, 4, 1), jnp.dtype("float32"))
    (logits, deltas), params = jax.eval_shape(rpn.init_with_output, jax.random.key(0), level, valid)
    assert (logits.shape, deltas.shape) == ((2, 5, 4, 3), (2, 5, 4, 3, 4))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 593_935

    head = BoxHead(classes=91, boxes=91, dtype=dtype)
    pooled = jax.ShapeDtypeStruct((6, 7, 7, 256), jnp.dtype(dtype))
    (classes, boxes), weights = jax.eval_shape(head.init_with_output, jax.random.key(0), pooled)
    assert (classes.shape, boxes.shape) == ((6, 91), (6, 91, 4))
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == 13_895_680 + 466_375
    everything = (logits, deltas, classes, boxes, *jax.tree.leaves((params, weights)))
    assert {leaf.dtype for leaf in everything} == {jnp.dtype("float32")}


def test_heads_start_near_indifference():
    pooled = jax.random.normal(jax.random.key(1), (4, 3, 3, 8))
    (logits, deltas), _ = jax.jit(BoxHead(classes=5, boxes=1, hidden=64).init_with_output)(jax.random.key(0), pooled)
    assert deltas.shape == (4, 1, 4)
    assert 0 < float(jnp.abs(logits).max()) < 1.0 and 0 < float(jnp.abs(deltas).max()) < 0.1
