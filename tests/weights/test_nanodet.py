"""NanoDet-g from its TensorFlow.js graph: every array in its place, and the published net's outputs on a picture."""

import cv2
import jax
import numpy as np
import pytest
import tfjs_writer
from jax import lax
from jax import numpy as jnp

from jaxkd.errors import WeightsError
from jaxkd.nets import csp
from jaxkd.weights import nanodet, parts, tree
from jaxkd.weights.published import recognise

WIDTH, CHANNELS, CLASSES = 4, 6, 3
BLOCKS, STRIDES, LAST = (1, 2, 2, 3), (8, 16, 32), 33


def random_leaves():
    """Kernel and bias of each convolution of a narrow NanoDet-g, under its name in the graph."""
    rng, shapes = np.random.default_rng(0), [(3, 3, 3, WIDTH)]
    for stage, count in enumerate(BLOCKS):
        wide = WIDTH * 2**stage
        block = [(3, 3, wide, wide // 2), (3, 3, wide // 2, wide // 2)]
        shapes += [(3, 3, wide, wide), *(block * count), (3, 3, wide, wide)]
    shapes += [(1, 1, WIDTH * 2**stage, CHANNELS) for stage in (2, 3, 4)]
    shapes += [(3, 3, CHANNELS, CHANNELS), (1, 1, CHANNELS, CLASSES + 44)] * 3
    names = ["convolution", *(f"convolution_{number}" for number in range(1, LAST + 1))]
    return {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), 0.1 * rng.normal(size=shape[-1]))
        for name, shape in zip(names, shapes, strict=True)
    }


def saved(folder, leaves, *, order=1):
    nodes, arrays = tfjs_writer.convolutions(leaves)
    entries = [tfjs_writer.entry(name, array) for name, array in arrays.items()]
    entries.append(tfjs_writer.entry("PartitionedCall/transpose_1/perm", [0, 2, 3, 1], dtype="int32"))
    tfjs_writer.save(folder / "nanodet.json", nodes, [tfjs_writer.group(entries[::order])])
    return folder / "nanodet.json"


def convolved(x, kernel, bias, *, stride=1, leaky=True):
    pad = (kernel.shape[0] // 2,) * 2
    x = lax.conv_general_dilated(x, kernel, (stride,) * 2, (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.where(x + bias < 0, 0.1 * (x + bias), x + bias) if leaky else x + bias


def doubled(x):
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "linear")


def halved(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def summed(fine, middle, coarse):
    """The pyramid of sums down and up again."""
    middle = middle + doubled(coarse)
    fine = fine + doubled(middle)
    middle = middle + halved(fine)
    return fine, middle, coarse + halved(middle)


def by_number(arrays, bgr):
    """The levels of the backbone and the answers of each level, by the numbers of the graph alone."""
    numbers = iter(range(LAST + 1))

    def layer(x, **options):
        name = f"convolution_{next(numbers)}".removesuffix("_0")
        return convolved(x, arrays[f"{name}.kernel"], arrays[f"{name}.bias"], **options)

    x = layer(bgr, stride=2)
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    levels = []
    for stage, count in enumerate(BLOCKS):
        x = y = layer(x, stride=1 if stage == 0 else 2)
        for _ in range(count):
            first = layer(y)
            y = jnp.concatenate((layer(first), first), -1)
        x = jnp.concatenate((layer(y), x), -1)
        levels.append(x)
    sums = summed(*[layer(level, leaky=False) for level in levels[1:]])
    return levels, [layer(layer(level), leaky=False) for level in sums]


def by_leaf(found, rgb):
    """The levels of `nets.csp` on the whole canvas, and the class logits and bins of each level, by jaxkd's leaves."""
    net, extents = csp.build(csp.Config(**found.backbone)), jnp.array([rgb.shape[1:3]], jnp.int32)
    given = {name.removeprefix("backbone/"): array for name, array in found.arrays.items() if "backbone" in name}
    params, _ = tree.match(jax.eval_shape(net.init, jax.random.key(0), rgb, extents)["params"], given)
    levels = jax.jit(net.apply)({"params": params}, rgb, extents)

    def layer(name, x, **options):
        return convolved(x, found.arrays[f"{name}/kernel"], found.arrays[f"{name}/bias"], **options)

    sums = summed(*[layer(f"neck/lateral_{i}", level, leaky=False) for i, level in enumerate(levels[1:])])
    towers = [layer(f"head/level_{i}/tower_0", level) for i, level in enumerate(sums)]
    outputs = [
        [layer(f"head/level_{i}/{name}", tower, leaky=False) for name in ("logits", "bins")]
        for i, tower in enumerate(towers)
    ]
    return levels, outputs


def assert_near(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("order", [1, -1])
def test_every_array_has_its_place_whatever_the_manifests_order(tmp_path, order):
    net = parts.read_net(saved(tmp_path, random_leaves(), order=order))
    assert (net.kind, net.location) == ("detector", "under PartitionedCall.")
    assert net.unused == ("PartitionedCall.transpose_1.perm",)
    found = recognise(net.arrays)
    assert (found.family, found.kind, found.classes) == ("nanodet", "detectors.gfl", CLASSES)
    assert (found.backbone_kind, found.backbone) == ("nets.csp", {"width": WIDTH})
    assert (found.neck_kind, found.neck["channels"], found.fields["head.channels"]) == ("nets.sum_pan", CHANNELS, 6)
    assert len(found.arrays) == 2 * 34 + 6
    picture = jax.random.normal(jax.random.key(1), (1, 64, 96, 3))
    levels, outputs = by_leaf(found, picture)
    wanted, answers = by_number(net.arrays, picture[..., ::-1])
    for level, other in zip(levels, wanted, strict=True):
        assert_near(level, other)
    for (logits, bins), both in zip(outputs, answers, strict=True):
        assert logits.shape[-1] == CLASSES
        assert_near(jnp.concatenate((logits, bins), -1), both)


def test_what_is_missing_or_more_is_not_passed_over(tmp_path):
    arrays = parts.read_net(saved(tmp_path, random_leaves())).arrays
    with pytest.raises(WeightsError, match=r"named as nanodet's and lack 'head/level_1/answers/bias'"):
        recognise({name: array for name, array in arrays.items() if name != "convolution_31.bias"})
    more = recognise(arrays | {"convolution_34.kernel": np.ones((1, 1, 2, 2)), "convolution_03.bias": np.ones(2)})
    assert {name for name in more.arrays if "convolution" in name} == {"convolution_34.kernel", "convolution_03.bias"}
    narrow = {name: array[..., :44] if "_29" in name else array for name, array in arrays.items()}
    with pytest.raises(WeightsError, match="no outputs for classes"):
        recognise(narrow)
    with pytest.raises(WeightsError, match="nanodet's, and their shapes do not fit"):
        recognise(arrays | {"convolution.kernel": np.float32(1)})


def test_another_graph_is_no_nanodet(tmp_path):
    leaves = dict(list(random_leaves().items())[:-1])
    with pytest.raises(WeightsError, match=r"known are .* NanoDet-g as a graph of TensorFlow\.js"):
        parts.read_net(saved(tmp_path, leaves))


def test_the_published_net_gives_its_outputs(shared):
    """A picture of 480 x 640 at the top left of a canvas of 416 x 416, all of which the net sees."""
    net = parts.read_net(shared / "weights" / "nanodet_g_coco" / "nanodet.json")
    found = recognise(net.arrays)
    assert sum(array.size for array in found.arrays.values()) == 3_786_068 and len(net.unused) == 161
    assert found.classes == 80 and found.backbone == {"width": 32} and found.neck["channels"] == 128
    picture = cv2.imread(str(shared / "data" / "minicoco" / "val2017" / "000000005001.jpg"))[..., ::-1]
    picture = cv2.resize(np.ascontiguousarray(picture), (416, 312), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    mean, std = (np.array(nanodet.FIELDS[f"pixels.{name}"], np.float32) for name in ("mean", "std"))
    canvas = np.pad((picture - mean) / std, ((0, 104), (0, 0), (0, 0)))[None]
    levels, outputs = by_leaf(found, canvas)
    assert [level.shape[1:] for level in levels] == [(104, 104, 64), (52, 52, 128), (26, 26, 256), (13, 13, 512)]
    means = [float(logits.mean()) for logits, _ in outputs]
    np.testing.assert_allclose(means, [-5.351, -4.964, -4.645], atol=6e-4)
    boxes, scores = map(np.concatenate, zip(*map(decoded, outputs, STRIDES), strict=True))
    best = scores[:, 0].argsort()[::-1][:3]
    np.testing.assert_allclose(scores[best, 0], [0.570, 0.568, 0.568], atol=6e-4)
    wanted = [(292.6, 56.0, 353.3, 141.8), (541.0, 101.4, 640.5, 480.0), (344.9, 91.5, 524.5, 461.7)]
    np.testing.assert_allclose(boxes[best] * 640 / 416, wanted, atol=0.06)


def decoded(output, stride):
    """Boxes [n 4] and scores [n k] of one level: distances are expectations over 11 bins, points centres of cells."""
    (logits, bins), side = output, output[0].shape[1]
    distances = jax.nn.softmax(bins.reshape(-1, 4, nanodet.BINS)) @ jnp.arange(11.0) * stride
    y, x = (jnp.mgrid[:side, :side].reshape(2, -1) + 0.5) * stride
    low, high = jnp.stack((x, y), 1) - distances[:, :2], jnp.stack((x, y), 1) + distances[:, 2:]
    return jnp.concatenate((low, high), 1), jax.nn.sigmoid(logits.reshape(side * side, -1))
