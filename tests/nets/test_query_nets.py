"""Nets of query detectors: positions, anchors, selection, and numbers of parameters of the published sizes."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.config import component
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.nets import hybrid_encoder, resnet_d
from jaxkd.nets.query_decoder import Selection, cell_anchors, safe_logit
from jaxkd.nets.query_layer import Decoder


def test_positions_of_a_small_map():
    positions = hybrid_encoder.sine_positions(2, 3, channels=8, temperature=10000.0)
    zero, one, two = [0, 0, 1, 1], [0.841471, 0.01, 0.540302, 0.99995], [0.909297, 0.019999, -0.416147, 0.9998]
    expected = [[zero + zero, zero + one, zero + two], [one + zero, one + one, one + two]]
    np.testing.assert_allclose(positions, expected, atol=1e-5)


def test_anchors_of_cells():
    logits, valid = cell_anchors([(2, 4)])
    assert valid.all() and logits.shape == (8, 4)
    np.testing.assert_allclose(logits[0], [-1.945910, -1.098612, -2.944439, -2.944439], atol=1e-6)
    assert cell_anchors([(80, 80)])[1].sum() == 78 * 78
    np.testing.assert_allclose(safe_logit(jnp.asarray([0.0, 0.5, 1.2])), [-11.512925, 0, 11.512925], atol=1e-5)


def test_a_cell_at_the_edge_is_one_of_zeros():
    """All have one content, and the logistic function of infinity as numbers of their box."""
    net = Selection(Decoder(width=4, queries=6400), 2)
    maps = [jnp.asarray(np.random.default_rng(seed).normal(size=(1, 80, 80, 4)), jnp.float32) for seed in (0, 1)]
    params = net.init(jax.random.key(0), (maps[0],))
    for one in maps:
        queries = net.apply(params, (one,))
        at_edge = (np.asarray(queries.boxes[0]) == 1).all(-1)
        assert at_edge.sum() == 6400 - 78 * 78
        assert np.ptp(np.asarray(queries.content[0])[at_edge], axis=0).max() == 0


def test_fewer_cells_than_queries():
    net = Selection(Decoder(width=4, queries=50), 2)
    level = jnp.ones((1, 2, 3, 4))
    queries = net.apply(net.init(jax.random.key(0), (level,)), (level,))
    assert queries.boxes.shape == (1, 6, 4)


def test_the_mean_of_real_cells():
    x = jnp.arange(1.0, 7).reshape(1, 2, 3, 1)
    pooled = resnet_d.mean_pooled(x, jnp.ones_like(x))
    np.testing.assert_allclose(pooled[0, :, :, 0], [[3.0, 4.5]])


def detector(kind, backbone, neck, decoder):
    parts = {"rt_detr": ("nets.resnet_d", "nets.hybrid_encoder"), "d_fine": ("nets.hgnet", "nets.elan_encoder")}[kind]
    nets = {"backbone": component(parts[0], **backbone), "neck": component(parts[1], **neck)}
    return build.detector(component(f"detectors.{kind}", **nets, decoder=decoder), [str(index) for index in range(80)])


R18 = {"widths": (64, 128, 256, 512), "blocks": (2, 2, 2, 2), "bottleneck": False}
N = {"channels": 128, "first": 2, "hidden": 512, "expansion": 0.34, "steps": 2}
N_DECODER = {"width": 128, "layers": 3, "hidden": 512, "points": (6, 6)}
B4 = {
    "stem": (32, 48),
    "inner": (48, 96, 192, 384),
    "widths": (128, 512, 1024, 2048),
    "blocks": (1, 1, 3, 1),
    "layers": (6, 6, 6, 6),
    "affine": False,
}


@pytest.mark.parametrize(
    ("kind", "backbone", "neck", "decoder", "millions"),
    [
        ("rt_detr", R18, {"expansion": 0.5}, {"layers": 3}, 20.18),
        ("rt_detr", {}, {}, {}, 42.95),
        ("d_fine", {}, N, N_DECODER, 3.78),
        ("d_fine", {}, {"expansion": 0.5, "steps": 1}, {"layers": 3}, 10.32),
        ("d_fine", B4, {}, {}, 31.29),
    ],
    ids=["r18", "r50", "N", "S", "L"],
)
def test_numbers_of_parameters(kind, backbone, neck, decoder, millions):
    """Those counted of transformers' models, which have no statistics of norms among them."""
    leaves = jax.tree.leaves_with_path(build.param_shapes(detector(kind, backbone, neck, decoder)))
    count = sum(leaf.size for path, leaf in leaves if path[-1].key not in ("mean", "var"))
    assert count / 1e6 == pytest.approx(millions, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "neck", "decoder", "said"),
    [
        ("rt_detr", {"channels": 30}, {}, "30 channels and 8 heads does not divide"),
        ("rt_detr", {}, {"width": 30}, "width 30 is no multiple of its 8 heads"),
        ("rt_detr", {}, {"points": (4, 4)}, r"points is \(4, 4\), and the neck has 3 levels"),
        ("d_fine", {}, {"bins": 7}, "bins is 7"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, neck, decoder, said):
    with pytest.raises(ConfigError, match=said):
        build.param_shapes(detector(kind, {}, neck, decoder))


@pytest.mark.parametrize(
    ("net", "fields", "said"),
    [
        ("nets.resnet_d", {"blocks": (1, 1)}, "give one number for each of the 4 stages"),
        ("nets.hgnet", {"light": (True,)}, "light is .*one value for each of the 4 stages"),
        ("nets.hgnet", {"kernels": (3, 4, 5, 5)}, "give odd sizes"),
    ],
)
def test_backbones_of_other_shapes_are_refused(net, fields, said):
    kind = "rt_detr" if net == "nets.resnet_d" else "d_fine"
    with pytest.raises(ConfigError, match=said):
        build.param_shapes(detector(kind, fields, {}, {}))
