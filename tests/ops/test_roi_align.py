import importlib.util
import re

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import numpy as jnp

from jaxkd.ops import roi_align as ops
from jaxkd.ops.roi_align import Pooling
from jaxkd.ops.roi_windows import roi_align_windows

STATIC = ("strides", "pooling")
roi_align = jax.jit(ops.roi_align, static_argnames=STATIC)
roi_align_dense = jax.jit(ops.roi_align_dense, static_argnames=STATIC)
roi_align_batch = jax.jit(ops.roi_align_batch, static_argnames=(*STATIC, "formulation"))


def windows(pyramid, boxes, *, extents=None, window=(64, 128), **options):
    extents = None if extents is None else extents[None]
    return roi_align_windows([x[None] for x in pyramid], boxes[None], extents=extents, window=window, **options)[0]


def small_windows(pyramid, boxes, **options):
    """Windows that never hold the larger boxes, so that a chunk takes several of them."""
    return windows(pyramid, boxes, window=(5, 8), **options)


windows = jax.jit(windows, static_argnames=(*STATIC, "window"))
small_windows = jax.jit(small_windows, static_argnames=STATIC)

STRIDES = (4, 8, 16, 32)
SHAPES = ((24, 20), (12, 10), (6, 5), (3, 3))
EVERY = {"gather": roi_align, "dense": roi_align_dense, "windows": windows, "small windows": small_windows}
FORMS = pytest.mark.parametrize("form", EVERY.values(), ids=EVERY.keys())


def random_pyramid(rng, channels=3):
    return [jnp.asarray(rng.normal(size=(*shape, channels)), jnp.float32) for shape in SHAPES]


def random_boxes(rng, count):
    """Boxes of all sizes for a picture of 96 x 80, some of them partly or wholly outside."""
    centre = rng.uniform(-20, 110, (count, 2))
    size = np.exp(rng.uniform(np.log(2), np.log(300), (count, 2)))
    return jnp.asarray(np.concatenate([centre - size / 2, centre + size / 2], -1), jnp.float32)


def slow_sample(level, y, x, height, width):
    """One bilinear sample, written from the definition."""
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(level.shape[-1])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    rows = np.maximum(0, 1 - np.abs(y - np.arange(height)))
    cols = np.maximum(0, 1 - np.abs(x - np.arange(width)))
    return np.einsum("h,w,hwc->c", rows, cols, level[:height, :width])


def slow_roi_align(pyramid, boxes, *, resolution, sampling_ratio, aligned, adaptive=False, extent=None):
    out = np.zeros((len(boxes), resolution, resolution, pyramid[0].shape[-1]))
    for r, box in enumerate(np.asarray(boxes, float)):
        side = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        number = int(np.clip(np.floor(4 + np.log2(side / 224 + 1e-6)), 2, 5)) - 2
        level, stride = np.asarray(pyramid[number], float), STRIDES[number]
        height, width = level.shape[:2]
        if extent is not None:
            height, width = (int(np.ceil(e / stride)) for e in extent)
        x0, y0, x1, y1 = box / stride - (0.5 if aligned else 0)
        w, h = x1 - x0, y1 - y0
        if not aligned:
            w, h = max(w, 1), max(h, 1)
        tall = wide = sampling_ratio
        if adaptive:
            tall, wide = (int(np.clip(np.ceil(length / resolution), 1, sampling_ratio)) for length in (h, w))
        for i in range(resolution):
            for j in range(resolution):
                for u in (np.arange(tall) + 0.5) / tall:
                    for v in (np.arange(wide) + 0.5) / wide:
                        y, x = y0 + (i + u) * h / resolution, x0 + (j + v) * w / resolution
                        out[r, i, j] += slow_sample(level, y, x, height, width) / (tall * wide)
    return out


@FORMS
def test_golden(form):
    # One level of stride 1 in which a cell's value is 10 * row + column; cell centres lie at .5.
    level = (10.0 * jnp.arange(4)[:, None] + jnp.arange(4))[..., None]
    boxes = jnp.array(
        [
            [0.0, 0.0, 2.0, 2.0],  # four bins, each exactly one cell
            [0.5, 0.5, 2.5, 2.5],  # between four cells: half a row and half a column further
            [1.0, 1.0, 1.0, 1.0],  # no area: the corner where four cells meet, in every bin
            [2.0, 2.0, 6.0, 6.0],  # the last bins are centred on 5, more than a cell outside
        ]
    )
    out = form([level], boxes, strides=(1,), pooling=Pooling(resolution=2, sampling_ratio=1))[..., 0]
    want = [
        [[0, 1], [10, 11]],
        [[5.5, 6.5], [15.5, 16.5]],
        [[5.5, 5.5], [5.5, 5.5]],
        [[27.5, 0], [0, 0]],
    ]
    np.testing.assert_allclose(out, want, atol=1e-5)


@FORMS
def test_golden_without_half_pixel(form):
    level = (10.0 * jnp.arange(4)[:, None] + jnp.arange(4))[..., None]
    boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])  # the second grows to one cell
    pooling = Pooling(resolution=2, sampling_ratio=1, aligned=False)
    out = form([level], boxes, strides=(1,), pooling=pooling)[..., 0]
    np.testing.assert_allclose(out, [[[5.5, 6.5], [15.5, 16.5]], [[13.75, 14.25], [18.75, 19.25]]], atol=1e-5)


@FORMS
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("resolution, sampling_ratio", [(7, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("extent", [None, (70, 61)])
def test_equals_the_definition(form, aligned, resolution, sampling_ratio, extent):
    rng = np.random.default_rng(0)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 19)
    sizes = {"resolution": resolution, "sampling_ratio": sampling_ratio, "aligned": aligned}
    want = slow_roi_align(pyramid, boxes, extent=extent, **sizes)
    given = None if extent is None else jnp.array(extent)
    got = form(pyramid, boxes, strides=STRIDES, extents=given, pooling=Pooling(chunk=8, **sizes))
    np.testing.assert_allclose(got, want, atol=2e-5)


@FORMS
@pytest.mark.parametrize("aligned", [True, False])
def test_as_many_samples_as_cells(form, aligned):
    rng = np.random.default_rng(1)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 19)
    sizes = {"resolution": 3, "sampling_ratio": 5, "adaptive": True, "aligned": aligned}
    want = slow_roi_align(pyramid, boxes, **sizes)
    np.testing.assert_allclose(form(pyramid, boxes, strides=STRIDES, pooling=Pooling(**sizes)), want, atol=2e-5)
    fixed = form(pyramid, boxes, strides=STRIDES, pooling=Pooling(**(sizes | {"adaptive": False})))
    assert np.abs(fixed - want).max() > 1e-2


@FORMS
def test_every_level_is_read(form):
    pyramid = [jnp.full((*shape, 1), 1.0 + number) for number, shape in enumerate(SHAPES)]
    side = jnp.array([10.0, 111.0, 112.0, 223.0, 224.0, 448.0])
    boxes = jnp.stack([40 - side / 2, 40 - side / 2, 40 + side / 2, 40 + side / 2], -1)
    middle = form(pyramid, boxes, strides=STRIDES)[:, 3, 3, 0]
    np.testing.assert_allclose(middle, [1, 1, 2, 2, 3, 4], rtol=1e-6)


@FORMS
def test_moving_picture_and_box_together_changes_nothing(form):
    rng = np.random.default_rng(1)
    level = jnp.asarray(rng.normal(size=(20, 20, 2)), jnp.float32)
    box = jnp.array([[12.0, 14.0, 41.0, 37.0]])
    moved = form([jnp.roll(level, (3, 2), (0, 1))], box + jnp.array([8.0, 12.0, 8.0, 12.0]), strides=(4,))
    np.testing.assert_allclose(moved, form([level], box, strides=(4,)), atol=1e-5)


@FORMS
def test_padding_never_changes_a_result(form):
    rng = np.random.default_rng(2)
    pyramid, boxes, extent = random_pyramid(rng), random_boxes(rng, 12), jnp.array([85, 77])
    padded = [
        jnp.pad(x, ((0, 64 // s), (0, 32 // s), (0, 0)), constant_values=99.0)
        for x, s in zip(pyramid, STRIDES, strict=True)
    ]
    want = form(pyramid, boxes, strides=STRIDES, extents=extent)
    np.testing.assert_allclose(form(padded, boxes, strides=STRIDES, extents=extent), want, atol=1e-5)


@FORMS
def test_chunk_changes_nothing(form):
    rng = np.random.default_rng(3)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 10)
    want = roi_align(pyramid, boxes, strides=STRIDES, pooling=Pooling(chunk=100))
    for chunk in (1, 3, 10):
        got = form(pyramid, boxes, strides=STRIDES, pooling=Pooling(chunk=chunk))
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("formulation", ["gather", "windows"])
@pytest.mark.parametrize("with_extents", [False, True])
def test_batch_and_vmap_equal_one_image_at_a_time(with_extents, formulation):
    rng = np.random.default_rng(4)
    images = [random_pyramid(rng) for _ in range(3)]
    pyramids = [jnp.stack(levels) for levels in zip(*images, strict=True)]
    boxes = jnp.stack([random_boxes(rng, 11) for _ in images])
    extents = jnp.array([[96, 80], [50, 80], [33, 61]]) if with_extents else None

    def alone(pyramid, boxes, extents):
        form = windows if formulation == "windows" else roi_align
        return form(pyramid, boxes, strides=STRIDES, extents=extents, pooling=Pooling(chunk=4))

    want = jnp.stack([alone(images[i], boxes[i], extents[i] if with_extents else None) for i in range(3)])
    together = roi_align_batch(pyramids, boxes, strides=STRIDES, extents=extents, formulation=formulation)
    mapped = jax.jit(jax.vmap(alone, in_axes=(0, 0, 0 if with_extents else None)))(pyramids, boxes, extents)
    np.testing.assert_allclose(together, want, atol=1e-5)
    np.testing.assert_allclose(mapped, want, atol=1e-5)


@FORMS
@pytest.mark.parametrize("chunk", [4, 100])
def test_gradient_equals_finite_differences(form, chunk):
    rng = np.random.default_rng(5)
    pyramid, boxes = random_pyramid(rng, channels=1), random_boxes(rng, 9)
    weights, pooling = np.asarray(rng.normal(size=(9, 2, 2, 1))), Pooling(resolution=2, chunk=chunk)

    def loss(pyramid):
        return (form(pyramid, boxes, strides=STRIDES, pooling=pooling) * weights).sum()

    def slow(pyramid):
        return (slow_roi_align(pyramid, boxes, resolution=2, sampling_ratio=2, aligned=True) * weights).sum()

    gradients = jax.jit(jax.grad(loss))(pyramid)
    base = slow(pyramid)
    for number, gradient in enumerate(gradients):
        cells = np.argwhere(np.abs(gradient[..., 0]) > 1e-3)
        for row, col in [*cells[:: max(len(cells) // 4, 1)], (0, 0)]:
            nudged = [np.array(x, float) for x in pyramid]
            nudged[number][row, col, 0] += 1.0  # pooling is linear, so the step may be large
            np.testing.assert_allclose(gradient[row, col, 0], slow(nudged) - base, atol=1e-4)


@FORMS
def test_no_gradient_reaches_the_boxes(form):
    rng = np.random.default_rng(6)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 5)
    gradient = jax.jit(jax.grad(lambda boxes: (form(pyramid, boxes, strides=STRIDES) ** 2).sum()))(boxes)
    np.testing.assert_array_equal(gradient, np.zeros((5, 4)))


@FORMS
def test_junk_boxes_are_finite_and_leave_the_others_alone(form):
    rng = np.random.default_rng(7)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 4)
    junk = jnp.array([[jnp.nan] * 4, [jnp.inf] * 4, [1e30, 1e30, -1e30, -1e30], [9.0, 9.0, 3.0, 3.0], [0.0] * 4])

    def loss(pyramid, boxes):
        out = form(pyramid, boxes, strides=STRIDES)
        return out[:4].sum(), out

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, got), gradient = both(pyramid, jnp.concatenate([boxes, junk]))
    (_, want), same = both(pyramid, boxes)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[4:7], np.zeros_like(got[4:7]))
    np.testing.assert_allclose(got[:4], want, atol=1e-5)
    for a, b in zip(gradient, same, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@FORMS
def test_the_result_has_the_dtype_of_the_features(form):
    rng = np.random.default_rng(8)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 5)
    half = [x.astype(jnp.bfloat16) for x in pyramid]
    got = form(half, boxes, strides=STRIDES)
    assert got.dtype == jnp.bfloat16
    want = form([x.astype(jnp.float32) for x in half], boxes, strides=STRIDES)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.02)


@FORMS
def test_no_boxes(form):
    assert form(random_pyramid(np.random.default_rng(9)), jnp.zeros((0, 4)), strides=STRIDES).shape == (0, 7, 7, 3)


@FORMS
def test_refusals(form):
    pyramid, boxes = random_pyramid(np.random.default_rng(10)), jnp.zeros((1, 4))
    with pytest.raises(ValueError, match="3 strides for 4 levels"):
        form(pyramid, boxes, strides=STRIDES[:3])
    with pytest.raises(ValueError, match="formulation='fast'"):
        ops.roi_align_batch([x[None] for x in pyramid], boxes[None], strides=STRIDES, formulation="fast")


@pytest.mark.parametrize("name", ["resolution", "sampling_ratio", "chunk"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0; it must be at least 1"):
        Pooling(**{name: 0})


def test_windows_without_cells_are_refused():
    pyramid = random_pyramid(np.random.default_rng(10))
    with pytest.raises(ValueError, match="window=0"):
        windows(pyramid, jnp.zeros((1, 4)), strides=STRIDES, window=(0, 8))


def pooled_and_gradient(form, pyramid, boxes, gradient, **options):
    """What a formulation pools, and what it sends back."""

    def both(pyramid, boxes, gradient):
        out, back = jax.vjp(lambda levels: form(levels, boxes, strides=STRIDES, **options), pyramid)
        return out, *back(gradient)[0]

    return jax.jit(both)(pyramid, boxes, gradient)


@pytest.mark.parametrize("form", [windows, small_windows, roi_align_dense], ids=["windows", "small windows", "dense"])
@pytest.mark.parametrize("pooling", [Pooling(), Pooling(aligned=False), Pooling(sampling_ratio=4, adaptive=True)])
def test_formulations_agree_forward_and_backward(form, pooling):
    rng = np.random.default_rng(12)
    pyramid, boxes, gradient = random_pyramid(rng), random_boxes(rng, 60), rng.normal(size=(60, 7, 7, 3))
    given = (pyramid, boxes, jnp.asarray(gradient, jnp.float32))
    options = {"extents": jnp.array([90, 71]), "pooling": pooling}
    want = pooled_and_gradient(roi_align, *given, **options)
    for got, expected in zip(pooled_and_gradient(form, *given, **options), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("form", [windows, small_windows], ids=["windows", "small windows"])
def test_half_precision_is_as_good_as_its_weights(form):
    rng = np.random.default_rng(13)
    pyramid, boxes = [x.astype(jnp.bfloat16) for x in random_pyramid(rng)], random_boxes(rng, 40)
    gradient = jnp.asarray(rng.normal(size=(40, 7, 7, 3)), jnp.bfloat16)
    full = [x.astype(jnp.float32) for x in pyramid]
    want = pooled_and_gradient(roi_align, full, boxes, gradient.astype(jnp.float32))
    for got, expected in zip(pooled_and_gradient(form, pyramid, boxes, gradient), want, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            got.astype(jnp.float32), expected, rtol=0.02, atol=0.004 * max(1.0, np.abs(expected).max())
        )


edges = st.one_of(
    st.floats(-200, 300, width=32),
    st.sampled_from([0.0, 80.0, 96.0, -4.0, 1e6, -1e6, 3e38, float("nan"), float("inf"), float("-inf")]),
)
PAIR = {
    form: jax.jit(lambda boxes, pyramid, gradient, form=form: pooled_and_gradient(form, pyramid, boxes, gradient))
    for form in (roi_align, small_windows)
}


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.tuples(edges, edges, edges, edges), min_size=6, max_size=6))
def test_extreme_boxes_get_what_the_gather_gives(boxes):
    rng = np.random.default_rng(14)
    pyramid, gradient = random_pyramid(rng), jnp.asarray(rng.normal(size=(6, 7, 7, 3)), jnp.float32)
    boxes = jnp.array(boxes, jnp.float32)
    want, got = (PAIR[form](boxes, pyramid, gradient) for form in (roi_align, small_windows))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, np.abs(b).max()))


def test_many_regions_in_one_place_are_in_one_chunk_after_another():
    rng = np.random.default_rng(15)
    pyramid = random_pyramid(rng)
    boxes = jnp.concatenate([jnp.tile(jnp.array([[10.0, 12.0, 40.0, 50.0]]), (50, 1)), random_boxes(rng, 3)])
    out = windows(pyramid, boxes, strides=STRIDES)
    np.testing.assert_allclose(out, roi_align(pyramid, boxes, strides=STRIDES), atol=1e-5)


def test_a_program_for_a_cpu_holds_the_gather_alone():
    rng = np.random.default_rng(16)
    pyramids, boxes = [x[None] for x in random_pyramid(rng)], random_boxes(rng, 40)[None]

    def program(formulation):
        def loss(pyramids):
            return (ops.roi_align_batch(pyramids, boxes, strides=STRIDES, formulation=formulation) ** 2).sum()

        lowered = jax.jit(jax.grad(loss)).trace(pyramids).lower(lowering_platforms=("cpu",))
        text = re.sub(r", metadata=\{[^}]*\}", "", lowered.compile().as_text())
        return sorted(re.findall(r" = \S+ ([a-z-]+)\(", text))

    assert program("auto") == program("gather")


def test_a_program_for_a_tpu_holds_the_windows():
    pyramids, boxes = [x[None] for x in random_pyramid(np.random.default_rng(17))], jnp.zeros((1, 40, 4))

    def lowered(platform, formulation):
        function = jax.jit(lambda p, b: ops.roi_align_batch(p, b, strides=STRIDES, formulation=formulation))
        return function.trace(pyramids, boxes).lower(lowering_platforms=(platform,)).as_text().count("dot_general")

    assert lowered("tpu", "windows") > 0 == lowered("cpu", "auto") - lowered("cpu", "gather")
    assert lowered("tpu", "auto") == lowered("tpu", "windows")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@FORMS
def test_equals_torchvision(form):
    torch, peer = pytest.importorskip("torch"), pytest.importorskip("torchvision").ops
    rng = np.random.default_rng(11)
    pyramid, boxes = random_pyramid(rng), random_boxes(rng, 40)
    maps = {str(i): torch.tensor(np.asarray(x).transpose(2, 0, 1)[None].copy()) for i, x in enumerate(pyramid)}
    pooler = peer.MultiScaleRoIAlign(list(maps), 7, 2)
    want = pooler(maps, [torch.tensor(np.asarray(boxes))], [(96, 80)]).numpy().transpose(0, 2, 3, 1)
    got = form(pyramid, boxes, strides=STRIDES, pooling=Pooling(aligned=False))
    np.testing.assert_allclose(got, want, atol=4e-5)
    one = torch.tensor(np.asarray(boxes))
    want = peer.roi_align(maps["0"], [one], 7, 0.25, 2, aligned=True).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(form(pyramid[:1], boxes, strides=STRIDES[:1]), want, atol=4e-5)
