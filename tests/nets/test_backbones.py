import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.errors import ConfigError
from jaxkd.nets import csp, mobilenet, mobilenetv4, resnet
from jaxkd.nets.conv import conv
from jaxkd.nets.pool import halved
from jaxkd.nets.remat import rematted
from jaxkd.weights import backbone_names, read, tree

SIZE = jnp.array([[64, 64]], np.int32)


def shapes_of(module, config, high=64, wide=64, **options):
    images = jax.ShapeDtypeStruct((1, high, wide, 3), jnp.float32)
    extents = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    net = module.build(config, **options)
    params = jax.eval_shape(net.init, jax.random.key(0), images, extents)
    return params["params"], jax.eval_shape(net.apply, params, images, extents)


def trainable(params):
    leaves = tree.flatten(params)
    return sum(leaf.size for name, leaf in leaves.items() if not name.endswith(("/mean", "/var")))


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160), (152, 58_143_808)]
)
def test_resnet_has_the_published_number_of_parameters(depth, count):
    for norm in ("frozen_batch", "group"):
        params, levels = shapes_of(resnet, resnet.Config(depth=depth, norm=norm))
        assert trainable(params) == count
    expected = zip((16, 8, 4, 2), resnet.channels(resnet.Config(depth=depth)), strict=True)
    assert [level.shape for level in levels] == [(1, side, side, wide) for side, wide in expected]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"depth": 50, "cardinality": 32, "part_width": 4}, 22_979_904),
        ({"depth": 101, "cardinality": 32, "part_width": 4}, 42_128_704),
        ({"depth": 101, "cardinality": 32, "part_width": 8}, 86_742_336),
        ({"depth": 50, "part_width": 128}, 66_834_240),
    ],
)
def test_resnext_and_wide_networks_have_the_published_number_of_parameters(fields, count):
    params, levels = shapes_of(resnet, resnet.Config(**fields))
    assert trainable(params) == count
    assert [level.shape[-1] for level in levels] == [256, 512, 1024, 2048]


def test_a_convolution_in_parts_is_one_convolution_of_each_part():
    x = jax.random.normal(jax.random.key(0), (1, 9, 7, 12))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))

    def convolved(x, kernel, parts):
        module = conv(kernel.shape[-1], 3, stride=2, parts=parts, dtype="float32", name="conv")
        return module.apply({"params": {"kernel": kernel}}, x)

    single = [convolved(x[..., 4 * p : 4 * p + 4], kernel[..., 2 * p : 2 * p + 2], 1) for p in range(3)]
    np.testing.assert_allclose(convolved(x, kernel, 3), jnp.concatenate(single, -1), rtol=1e-5, atol=1e-5)


def test_parts_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="cardinality"):
        resnet.build(resnet.Config(depth=18, cardinality=2))


def test_mobilenet_has_the_published_number_of_parameters():
    params, levels = shapes_of(mobilenet, mobilenet.Config(), high=75, wide=50)
    assert trainable(params) == 1_811_712
    assert [level.shape[1:] for level in levels] == [(19, 13, 24), (10, 7, 32), (5, 4, 96), (3, 2, 320)]
    assert mobilenet.channels(mobilenet.Config()) == (24, 32, 96, 320)
    assert mobilenet.channels(mobilenet.Config(width=0.35)) == (8, 16, 32, 112)


def test_csp_has_the_numbers_of_nanodet_g():
    params, levels = shapes_of(csp, csp.Config(), high=75, wide=50)
    kernels = {name: leaf.shape for name, leaf in tree.flatten(params).items() if name.endswith("/kernel")}
    assert len(kernels) == 25 and all(shape[:2] == (3, 3) for shape in kernels.values())
    assert kernels["conv/kernel"][2:] == (3, 32) and kernels["stage1/block_0/mid/kernel"][2:] == (16, 16)
    assert kernels["stage4/in/kernel"][2:] == kernels["stage4/out/kernel"][2:] == (256, 256)
    assert trainable(params) == 3_786_068 - 115_072 - 490_740  # NanoDet-g without its laterals and its heads
    assert [level.shape[1:] for level in levels] == [(19, 13, 64), (10, 7, 128), (5, 4, 256), (3, 2, 512)]
    assert csp.channels(csp.Config()) == (64, 128, 256, 512)
    normed, _ = shapes_of(csp, csp.Config(norm="group"))
    assert trainable(normed) == trainable(params) + sum(shape[3] for shape in kernels.values())


def test_a_csp_net_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="width is 7"):
        csp.build(csp.Config(width=7))
    with pytest.raises(ConfigError, match="one number for each of the 4 stages"):
        csp.build(csp.Config(blocks=(1, 2, 3)))


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (resnet, resnet.Config(depth=10, width=8)),
        (resnet, resnet.Config(depth=50, width=8, norm="group")),
        (mobilenet, mobilenet.Config()),
        (mobilenetv4, mobilenetv4.Config()),
        (csp, csp.Config(width=8)),
    ],
)
def test_bfloat16_is_computed_from_float32_parameters(module, config):
    params, levels = shapes_of(module, config, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert {level.dtype for level in levels} == {jnp.dtype("bfloat16")}


BLOCKS = {
    "basic": (resnet.Basic, resnet.Config(depth=10), {"width": 8}),
    "bottleneck": (resnet.Bottleneck, resnet.Config(norm="group"), {"width": 8, "inner": 8}),
    "inverted": (mobilenet.InvertedResidual, mobilenet.Config(), {"width": 8, "expansion": 2}),
    "universal": (mobilenetv4.InvertedBlock, mobilenetv4.Config(), {"row": mobilenetv4.Inverted(3, 5, 2, 8)}),
    "csp": (csp.Stage, csp.Config(norm="group"), {"blocks": 2}),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_what_a_block_keeps_for_the_gradient_changes_no_result(kind):
    block, config, options = BLOCKS[kind]
    x = jax.random.normal(jax.random.key(0), (2, 8, 6, 8))
    valid, found = (jnp.ones((2, 8, 6, 1)),) * (1 if kind == "csp" else 2), {}
    for remat in ("none", "convolutions", "blocks"):
        stride = {} if kind == "universal" else {"stride": 1}
        net = rematted(block, remat)(config, dtype="float32", **stride, **options)
        params = net.init(jax.random.key(1), x, *valid)

        def summed(params, x, net=net):
            return jnp.square(net.apply(params, x, *valid)).sum()

        waiting = jax.tree.leaves(jax.eval_shape(lambda *inputs, f=summed: jax.vjp(f, *inputs)[1], params, x))
        found[remat] = params, jax.jit(jax.grad(summed, (0, 1)))(params, x), sum(leaf.size for leaf in waiting)
    (params, exact, all_kept), *others = found.values()
    for same, gradient, _ in others:
        jax.tree.map(np.testing.assert_array_equal, params, same)
        for leaf, other in zip(jax.tree.leaves(exact), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(other, leaf, rtol=1e-6, atol=4e-6 * float(jnp.abs(leaf).max()))
    assert all_kept > found["convolutions"][2] > found["blocks"][2]


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (resnet, resnet.Config(depth=50, width=8)),
        (mobilenet, mobilenet.Config()),
        (mobilenetv4, mobilenetv4.Config()),
        (csp, csp.Config(width=8)),
    ],
)
def test_what_is_kept_for_the_gradient_names_no_parameter(module, config):
    shapes = [shapes_of(module, config, remat=remat) for remat in ("none", "convolutions", "blocks")]
    assert shapes[0] == shapes[1] == shapes[2]


def test_every_parameter_has_its_stage():
    params, _ = shapes_of(resnet, resnet.Config(depth=50))
    for name in tree.flatten(params):
        stage = resnet.stage_of(tuple(name.split("/")))
        assert (stage == 0 and name.startswith(("conv1/", "bn1/"))) or name.startswith(f"layer{stage}_")
    params, _ = shapes_of(csp, csp.Config(width=8, norm="group"))
    for name in tree.flatten(params):
        stage = csp.stage_of(tuple(name.split("/")))
        assert (stage == 0 and name.startswith(("conv/", "conv_norm/"))) or name.startswith(f"stage{stage}/")
    blocks = [mobilenet.stage_of((f"features_{block}", "conv", "kernel")) for block in range(18)]
    assert blocks == [0] * 2 + [1] * 2 + [2] * 3 + [3] * 7 + [4] * 4


@pytest.mark.parametrize("beyond", [0.0, -1e30])
def test_halved_is_max_pooling_with_its_gradient(beyond):
    x = jax.random.normal(jax.random.key(0), (2, 13, 10, 4))
    x = x if beyond else jnp.where(x > 0, x, -0.0)

    def ours(x):
        return halved(x, beyond=beyond)

    def pooled(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    results = [jax.jit(jax.vjp, static_argnums=0)(f, x)[0] for f in (ours, pooled)]
    np.testing.assert_array_equal(*results)
    gradients = [jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(nn.relu(x)) ** 2)))(x) for f in (ours, pooled)]
    np.testing.assert_allclose(*gradients, rtol=1e-5)


def test_no_gradient_reaches_stored_statistics():
    net = resnet.build(resnet.Config(depth=10, width=8))
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    params = jax.jit(net.init)(jax.random.key(1), images, SIZE)
    gradient = jax.jit(jax.grad(lambda params: sum(jnp.sum(x**2) for x in net.apply(params, images, SIZE))))(params)
    for name, leaf in tree.flatten(gradient["params"]).items():
        assert bool(leaf.any()) != name.endswith(("/mean", "/var")), name


def test_published_mobilenet_fills_every_leaf_and_tells_pictures_apart(shared):
    arrays = read.read(shared / "weights" / "mobilenetv2_imagenet" / "mobilenetv2_features.npz")
    ours, flavour = backbone_names.to_jaxkd(arrays)
    wanted, _ = shapes_of(mobilenet, mobilenet.Config())
    params, report = tree.match(wanted, ours, allow_unused=backbone_names.BEYOND[flavour])
    assert flavour == "mobilenet_v2" and len(report.matched) == 255 and not report.missing
    assert {name.split("/")[0] for name in report.unused} == {"features_18"}

    # Real weights keep the scale of their activations; misplaced ones drive it to zero or infinity.
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    levels = jax.jit(mobilenet.build(mobilenet.Config()).apply)({"params": params}, jnp.asarray(images), SIZE)
    assert all(0.05 < float(jnp.std(level)) < 20.0 for level in levels)
