"""Programs lowered to ONNX and to TensorFlow give the results of JAX, for any batch."""

import functools

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from jax import lax
from jax import numpy as jnp
from onnx import helper

from jaxkd.errors import ConfigError
from jaxkd.export.lowering import lower
from jaxkd.export.onnx_ops import IR, OPSET, OnnxOps
from jaxkd.export.tf_ops import TfOps
from jaxkd.nets import pool, pyramid, sum_pan
from jaxkd.nets.conv import convolved, pointwise
from jaxkd.nets.depthwise import shifted_products
from jaxkd.nets.norm import valid_cells
from jaxkd.ops.nms import nms
from jaxkd.ops.roi_align import Pooling, roi_align_batch

KERNEL = np.linspace(-1, 1, 75, dtype=np.float32).reshape(5, 5, 3)
TABLE = np.linspace(-2, 2, 24, dtype=np.float32).reshape(6, 4)


def by_rows(x):
    """Every row in the order that its own numbers give."""
    order = jnp.argsort(x[..., 0], axis=1)
    return jnp.take_along_axis(x, order[..., None], axis=1)


def looped(x):
    """Each picture halved until its largest number is below 1: loops that end in their own time."""
    return jax.vmap(lambda one: lax.while_loop(lambda y: y.max() >= 1, lambda y: y / 2, one))(x)


def chunked(x):
    """Rows of all pictures, seven at a time, through a map over chunks of which the last is not full."""
    rows = x.reshape(-1, 4)
    count = rows.shape[0]
    chunks = -(-count // 7)
    rows = jnp.pad(rows, ((0, chunks * 7 - count), (0, 0))).reshape(chunks, 7, 4)
    return lax.map(lambda part: jnp.cumsum(part, 0) @ jnp.ones((4, 2)), rows).reshape(-1, 2)[:count]


def put(x):
    """Numbers written to places of their own in each picture, some of them outside."""
    index = jnp.argsort(x[..., 0], axis=1) * 2
    return jax.vmap(lambda i, v: jnp.zeros(8).at[i].set(v, mode="drop"))(index, jnp.arange(5.0) + 0 * x[..., 0])


def windows(x):
    """A window of each picture that begins where its numbers say."""
    start = (x[:, 0, 0] * 3).astype(jnp.int32)
    return jax.vmap(lambda one, i: lax.dynamic_slice(one, (i, 1), (3, 2)))(x, start)


def halved_and_back(x):
    """The sums of a parameter-free neck, over an odd number of rows."""
    x = jnp.stack([x, x * x], -1)
    fine, coarse = (valid_cells(jnp.full((x.shape[0], 2), 4), stride=s, shape=(-(-5 // s), 4 // s)) for s in (1, 2))
    return sum_pan.interpolated(sum_pan.halved(x * fine, fine), coarse, like=x) * fine


def doubled_and_back(x):
    """Resizes, poolings and activations, with masks of ones that vanish."""
    x = jnp.stack([x, x * x - 1], -1)
    ones = [jnp.ones((x.shape[0], high, wide, 1)) for high, wide in ((5, 4), (10, 8))]
    fine = sum_pan.interpolated(x * ones[0], ones[0], like=ones[1])
    x = jnp.where(ones[0] > 0, sum_pan.halved(fine + pyramid.repeated(x), ones[1]), 7.0)
    x = sum_pan.halved(jax.nn.leaky_relu(x, 0.1), ones[0]) + pool.halved(x, beyond=-1e9)
    return jax.nn.relu(x) + jax.nn.relu6(3 * x) / 4


def normed(x):
    """A convolution with factors and shifts, and one with two uses, which nothing may join."""
    x = jnp.stack([x, x + 1, x * x], -1)
    y = convolved(x, jnp.asarray(KERNEL[:3, :3, :, None] * np.ones(4, np.float32)), stride=2) * TABLE[1] + TABLE[2]
    z = pointwise(y / 3 - 1, jnp.asarray(TABLE[:4]), stride=1, large=False)
    return z + 2 * z + pointwise(z, jnp.asarray(TABLE[:4]), stride=2, large=True)[:, :1, :1] * TABLE[3]


PROGRAMS = {  # x [b 5 4] float32
    "error function": lax.erf,
    "cells": lambda x: jnp.where(x > 0, jnp.exp(-jnp.abs(x)), lax.rsqrt(jnp.square(x) + 1)) + TABLE[0],
    "integers": lambda x: (x * 7).astype(jnp.int32) // 3 - (x * 9).astype(jnp.int32) % 4,
    "truncated": lambda x: lax.div((x * 9).astype(jnp.int32), jnp.int32(-2)) + lax.rem((x * 9).astype(jnp.int32), 4),
    "remainders": lambda x: lax.rem(x, jnp.float32(0.75)) + lax.rem(jnp.float32(2), x + 9),
    "rounded": lambda x: jnp.stack([lax.round(jnp.floor(x * 4) / 2), jnp.round(jnp.floor(x * 4) / 2)], 1),
    "remat": jax.checkpoint(lambda x: jnp.sin(TABLE[0]) * jnp.tanh(x) + 1),
    "truth": lambda x: jnp.where(x[..., :1] > 0, x > 1, ~(x < -1)).any(1) | (x > 0).all(1),
    "shapes": lambda x: jnp.stack([x.swapaxes(1, 2), jnp.ones_like(x).swapaxes(1, 2)], 1).reshape(-1, 40)[:, ::3],
    "unstacked": lambda x: jnp.stack([*jnp.unstack(x, axis=2)][::-1], 1) + jnp.unstack(x, axis=1)[2][:, :, None],
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=3.0)[:, ::-1],
    "sums": lambda x: jnp.cumsum(x, 1) / jnp.maximum(x.max((1, 2), keepdims=True) - x.min((1, 2), keepdims=True), 1),
    "product": lambda x: jnp.einsum("bij,bkj->bik", x, x + 1) @ jnp.ones((5, 3)),
    "tiles": lambda x: jnp.tile(x, (1, 2, 3)) + jnp.repeat(jnp.tile(x, (1, 1, 3)), 2, axis=1),
    "largest": lambda x: lax.top_k(x.reshape(x.shape[0], -1), 6)[0] + lax.top_k(x.reshape(x.shape[0], -1), 6)[1],
    "sorted": by_rows,
    "rows of a table": lambda x: jnp.asarray(TABLE)[jnp.clip(x.astype(jnp.int32), 0, 5)],
    "beyond a table": lambda x: jnp.asarray(TABLE).at[(x * 9).astype(jnp.int32)].get(mode="fill", fill_value=7.0),
    "windows": windows,
    "put": put,
    "loop": looped,
    "map": chunked,
    "batch": lambda x: x * x.shape[0] + jnp.arange(x.shape[0])[:, None, None],
    "depthwise": lambda x: shifted_products(jnp.stack([x, x + 1, x * x], -1), jnp.asarray(KERNEL), 2),
    "halved and back": halved_and_back,
    "doubled and back": doubled_and_back,
    "normed": normed,
    "dense": lambda x: jax.nn.softmax(jax.nn.relu(x @ TABLE.T), -1) * jax.nn.sigmoid(x[..., :1]),
}


def by_onnx(function, shape, inputs):
    ops = OnnxOps()
    batch = ops.cast(ops.node("Gather", [ops.node("Shape", ["x"]), ops.constant(np.int64(0))], axis=0), np.dtype("i4"))
    program = traced(function, shape)
    (found,) = lower(program, ops, ["x"], batch)
    ops.nodes.append(helper.make_node("Identity", [found], ["y"]))
    aval = program.out_avals[0]
    made = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(aval.dtype), [None] * aval.ndim)
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, *shape])
    graph = helper.make_graph(ops.nodes, "g", [given], [made], ops.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [session.run(None, {"x": x})[0] for x in inputs]


def by_tensorflow(function, shape, inputs, *, exact=False):
    program = traced(function, shape)

    def run(x):
        return lower(program, TfOps(exact=exact), [x], tf.shape(x)[0])[0]

    lowered = tf.function(run, [tf.TensorSpec((None, *shape), tf.float32)], autograph=False)
    return [lowered(tf.constant(x)).numpy() for x in inputs]


def traced(function, shape):
    (b,) = jax.export.symbolic_shape("b")
    return jax.make_jaxpr(function)(jax.ShapeDtypeStruct((b, *shape), jnp.float32))


LOWERED = {"onnx": by_onnx, "tensorflow": by_tensorflow, "exact": functools.partial(by_tensorflow, exact=True)}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("lowered", ["onnx", "tensorflow"])
def test_programs(name, lowered):
    rng = np.random.default_rng(0)
    inputs = [rng.normal(scale=2, size=(count, 5, 4)).astype(np.float32) for count in (3, 1)]
    for x, found in zip(inputs, LOWERED[lowered](PROGRAMS[name], (5, 4), inputs), strict=True):
        expected = np.asarray(jax.jit(PROGRAMS[name])(x))
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_tensorflows_equal_constants_are_one():
    program = traced(lambda x: jax.nn.relu(x @ TABLE.T) + jnp.tanh(x @ TABLE.T), (5, 4))
    lowered = tf.function(lambda x: lower(program, TfOps(), [x], tf.shape(x)[0]), autograph=False)
    graph = lowered.get_concrete_function(tf.TensorSpec((None, 5, 4), tf.float32)).graph
    assert [node.outputs[0].shape for node in graph.get_operations() if node.type == "Const"].count((4, 6)) == 1


@pytest.mark.parametrize("lowered", LOWERED)
def test_suppression_and_pooling(lowered):
    """Boxes from the input, suppressed class by class, pooled from a map of the input: the two ops that matter."""

    def function(x):
        low, side = jnp.abs(x[:, :, :2]) * 6, jnp.abs(x[:, :, 2:4]) * 12
        corners = jnp.concatenate([low, low + side], -1)
        scores, labels = x[:, :, 8], (x[:, :, 9] > 0).astype(jnp.int32)
        suppress = functools.partial(nms, threshold=0.3, limit=25)
        kept = jax.vmap(lambda b, s, c: suppress(b, s, valid=s > -1, classes=c))(corners, scores, labels)
        boxes = jnp.take_along_axis(corners, kept.index[..., None], 1)
        level = x[:, :, :16].reshape(-1, 8, 8, 10)
        extents, pooling = jnp.full((x.shape[0], 2), 29), Pooling(resolution=2, chunk=4)
        pooled = roi_align_batch([level], boxes, strides=[4], extents=extents, pooling=pooling)
        return jnp.where(kept.valid[..., None], pooled.reshape(pooled.shape[0], 25, -1), -1.0)

    rng = np.random.default_rng(3)
    inputs = [rng.normal(size=(count, 40, 16)).astype(np.float32) for count in (3, 1)]
    for x, found in zip(inputs, LOWERED[lowered](function, (40, 16), inputs), strict=True):
        expected = np.asarray(jax.jit(function)(x))
        assert (expected[:, :, 0] == -1).any(), "some places have to stay empty"
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: jnp.linalg.qr(x)[0], "the operation"),
        (lambda x: lax.scan(lambda c, row: (c + row, c), x[0], x)[1], "carries values"),
        (lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), "a condition"),
        (lambda x: x.astype(jnp.int32) & 6, "the operation and of integers"),
        (lambda x: ~x.astype(jnp.int32), "the operation not of integers"),
    ],
)
def test_what_no_format_holds_is_refused(function, what):
    with pytest.raises(ConfigError, match=f"{what}.*stablehlo"):
        by_onnx(function, (5, 4), [])


def test_tensorflow_knows_the_sizes_of_a_part():
    """Those that do not depend on the batch; TFLite has no convolution of unknown channels."""

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 6, 32), tf.float32)])
    def half(x):
        return lower(program, TfOps(), [x], tf.shape(x)[0])[0]

    (b,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 4, 6, 32), np.float32)
    program = jax.make_jaxpr(lambda x: jnp.split(x, 2, -1)[1][:, 1:])(shape)
    assert half.get_concrete_function().outputs[0].shape.as_list() == [None, 3, 6, 16]


def test_a_mask_of_the_whole_canvas_vanishes():
    """It depends on the pictures by their number alone, and is cut from their sizes by an index."""
    (b,) = jax.export.symbolic_shape("b")

    def masked(x):
        extents = jnp.broadcast_to(jnp.asarray([5, 4]), (x.shape[0], 2))
        return x * valid_cells(extents, stride=1, shape=(5, 4))

    program = jax.make_jaxpr(masked)(jax.ShapeDtypeStruct((b, 5, 4, 3), np.float32))
    assert "gather" in str(program)
    ops = OnnxOps()
    assert lower(program, ops, ["x"], "b") == ["x"] and not ops.nodes
