import jax
import numpy as np
import pytest
import timm_reference
from jax import numpy as jnp

from jaxkd.errors import WeightsError
from jaxkd.nets import mobilenet, mobilenetv4, resnet
from jaxkd.weights import backbone_names, tree

PARTS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def wanted(module, config):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    net = module.build(config)
    return jax.eval_shape(net.init, jax.random.key(0), images, jax.ShapeDtypeStruct((1, 2), jnp.int32))["params"]


def published(leaves, rename):
    """Arrays as a PyTorch file would hold them, and the same in our layout."""
    rng, theirs, ours = np.random.default_rng(0), {}, {}
    for name, leaf in leaves.items():
        ours[name] = rng.normal(size=leaf.shape).astype(np.float32)
        module, _, last = name.rpartition("/")
        array = ours[name].transpose(3, 2, 0, 1) if last == "kernel" else ours[name]
        theirs[f"{rename(module)}.{PARTS.get(last, 'weight')}"] = array
        if last == "var":
            theirs[f"{rename(module)}.num_batches_tracked"] = np.array(7)
    return theirs, ours


def assert_translated(theirs, ours, net, flavour, *, extra):
    out, found = backbone_names.to_jaxkd({**theirs, **extra})
    assert found == flavour
    params, report = tree.match(net, out, allow_unused=backbone_names.BEYOND[flavour])
    assert len(report.unused) == len(extra)
    for name, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(leaf, ours[name])


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet(depth):
    def rename(module):
        module = module.replace("downsample_conv", "downsample.0").replace("downsample_norm", "downsample.1")
        return module.replace("_", ".").replace("/", ".")

    net = wanted(resnet, resnet.Config(depth=depth, width=8))
    theirs, ours = published(tree.flatten(net), rename)
    assert {"layer2.0.downsample.1.running_var", "layer4.1.conv2.weight", "bn1.bias"} <= set(theirs)
    extra = {"fc.weight": np.zeros((10, 4)), "fc.bias": np.zeros(10)}
    assert_translated(theirs, ours, net, "resnet", extra=extra)
    assert backbone_names.resnet(extra)["fc/kernel"].shape == (4, 10)


def in_one_row(block, step, part):
    first = ("depthwise", "project") if block == "1" else ("expand", "depthwise", "project")
    return f"features.{block}.conv.{3 * first.index(step) + (part == 'norm')}"


def by_convolution(block, step, part):
    steps = ("depthwise", "project") if block == "1" else ("expand", "depthwise", "project")
    if step == "project":
        return f"features.{block}.conv.{len(steps) - 1 + (part == 'norm')}"
    return f"features.{block}.conv.{steps.index(step)}.{int(part == 'norm')}"


@pytest.mark.parametrize("numbering", [in_one_row, by_convolution])
def test_mobilenet(numbering):
    def rename(module):
        block, layer = module.removeprefix("features_").split("/")
        if block == "0":
            return f"features.0.{int(layer == 'norm')}"
        return numbering(block, *layer.split("_"))

    net = wanted(mobilenet, mobilenet.Config(width=0.35))
    theirs, ours = published(tree.flatten(net), rename)
    extra = {"features.18.0.weight": np.zeros((8, 4, 1, 1)), "classifier.1.weight": np.zeros((10, 8))}
    assert_translated(theirs, ours, net, "mobilenet_v2", extra=extra)


@pytest.mark.parametrize(("size", "top"), [("small", "stage"), ("medium", "wide")])
def test_timms_mobilenet_v4(size, top):
    net, whole = (wanted(mobilenetv4, mobilenetv4.Config(size=size, width=0.25, top=kind)) for kind in (top, "wide"))
    theirs, ours = published(tree.flatten(whole), timm_reference.name_of)
    theirs |= timm_reference.BEYOND
    assert {"conv_stem.weight", "bn1.bias", "blocks.4.0.bn1.running_var", "blocks.3.1.dw_mid.bn.weight"} <= set(theirs)
    out, flavour = backbone_names.to_jaxkd(theirs)
    params, report = tree.match(net, out, allow_unused=backbone_names.BEYOND[flavour])
    assert flavour == "mobilenet_v4"
    assert {name.split("/")[0] for name in report.unused} == {
        *("conv_head", "norm_head", "classifier"),
        *(("block_4_0",) if top == "stage" else ()),
    }
    for name, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(leaf, ours[name])

    del out["block_2_1/middle_conv/kernel"]
    with pytest.raises(WeightsError, match=r"block_2_1/middle_conv/kernel is missing"):
        tree.match(net, out, allow_unused=backbone_names.BEYOND[flavour])
    strays, _ = backbone_names.to_jaxkd(
        {**theirs, "blocks.3.1.se.conv.weight": np.zeros(2), "blocks.3.1.bn3.bias": np.zeros(2)}
    )
    with pytest.raises(
        WeightsError, match=r"blocks\.3\.1\.se\.conv\.weight is not used.*blocks\.3\.1\.bn3\.bias is not"
    ):
        tree.match(whole, strays, allow_unused=backbone_names.BEYOND[flavour])


def test_caffe2s_resnet():
    """detectron2's R-50.pkl: BGR, and norms that are a factor and a shift."""

    def rename(module):
        if module in ("conv1", "bn1"):
            return {"conv1": "conv1", "bn1": "res_conv1_bn"}[module]
        block, part = module.split("/")
        stage, index = block.removeprefix("layer").split("_")
        names = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}
        if part.startswith("downsample"):
            return f"res{int(stage) + 1}_{index}_branch1{'_bn' * part.endswith('norm')}"
        return f"res{int(stage) + 1}_{index}_{names[part[-1]]}{'_bn' * part.startswith('bn')}"

    net = wanted(resnet, resnet.Config(depth=50, width=8))
    rng, theirs, ours = np.random.default_rng(0), {}, {}
    for name, leaf in tree.flatten(net).items():
        module, _, last = name.rpartition("/")
        ours[name] = rng.normal(size=leaf.shape).astype(np.float32)
        if last == "mean":
            ours[name] = np.zeros(leaf.shape, np.float32)
        elif last == "var":
            ours[name] = np.full(leaf.shape, 1 - 1e-5, np.float32)
        elif last == "kernel":
            array = ours[name].transpose(3, 2, 0, 1)
            theirs[f"{rename(module)}_w"] = array[:, ::-1] if module == "conv1" else array
        else:
            theirs[f"{rename(module)}_{ {'scale': 's', 'bias': 'b'}[last] }"] = ours[name]
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_2_branch2c_bn_b"} <= set(theirs)
    extra = {"fc1000_w": np.zeros((10, 4)), "fc1000_b": np.zeros(10)}
    assert_translated(theirs, ours, net, "resnet", extra=extra)


def test_our_own_names_stay():
    assert backbone_names.to_jaxkd({"a/kernel": np.ones(2)})[1] == "jaxkd"


def test_unknown_names_are_refused_and_strays_are_kept():
    with pytest.raises(WeightsError, match=r"encoder\.weight"):
        backbone_names.to_jaxkd({"encoder.weight": np.ones(2)})
    with pytest.raises(WeightsError, match="none at all"):
        backbone_names.to_jaxkd({})
    assert "layer1.0.se.weight" in backbone_names.resnet({"layer1.0.se.weight": np.ones(2)})
    assert "features.2.conv.9.weight" in backbone_names.mobilenet_v2({"features.2.conv.9.weight": np.ones(2)})
