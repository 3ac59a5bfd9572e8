"""Random state dicts with the names and shapes of torchvision's Faster R-CNN, RetinaNet and FCOS with ResNet-FPN."""

import re

import numpy as np

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
KINDS = ("faster_rcnn", "retinanet", "fcos")


class Draw:
    """A state dict in the making."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.state = {}

    def normal(self, name, shape, spread, centre=0.0):
        values = centre + spread * self.rng.standard_normal(shape, dtype=np.float32)
        self.state[name] = values.astype(np.float32)

    def layer(self, name, shape, gain=2.5, bias=True):
        """A convolution or dense layer whose outputs have the variance of its inputs times `gain`.

        The weights of an output sum to zero, so that the positive mean behind a ReLU does not drown what varies.
        """
        self.normal(f"{name}.weight", shape, (gain / np.prod(shape[1:])) ** 0.5)
        weight = self.state[f"{name}.weight"]
        weight -= weight.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        if bias:
            self.normal(f"{name}.bias", shape[:1], 0.1)

    def norm(self, name, channels, scale=1.0, running=True):
        """A batch normalisation, or a group normalisation without running statistics."""
        self.normal(f"{name}.weight", channels, 0.1 * scale, scale)
        self.normal(f"{name}.bias", channels, 0.1)
        if running:
            self.normal(f"{name}.running_mean", channels, 0.1)
            self.state[f"{name}.running_var"] = self.rng.uniform(1, 1.5, channels).astype(np.float32)
            self.state[f"{name}.num_batches_tracked"] = np.array(100, np.int64)

    def conv_norm(self, name, shape, norm, gain=2.5):
        """Convolution `name.0`, with a bias unless a normalisation `name.1` ("batch" or "group") follows."""
        self.layer(f"{name}.0", shape, gain, bias=norm is None)
        if norm:
            self.norm(f"{name}.1", shape[0], running=norm == "batch")


def draw_resnet(draw, depth, width):
    """The body's state; returns the channels of C2..C5."""
    body = "backbone.body"
    draw.layer(f"{body}.conv1", (width, 3, 7, 7), bias=False)
    draw.norm(f"{body}.bn1", width)
    before, widths = width, [width * 2**i * (4 if depth == 50 else 1) for i in range(4)]
    for stage, (blocks, out) in enumerate(zip(BLOCKS[depth], widths, strict=True)):
        inner = width * 2**stage
        for i in range(blocks):
            name = f"{body}.layer{stage + 1}.{i}"
            shapes = [(inner, before, 3, 3), (out, inner, 3, 3)]
            if depth == 50:
                shapes = [(inner, before, 1, 1), (inner, inner, 3, 3), (out, inner, 1, 1)]
            for j, shape in enumerate(shapes, start=1):
                draw.layer(f"{name}.conv{j}", shape, bias=False)
                draw.norm(f"{name}.bn{j}", shape[0], scale=0.4 if j == len(shapes) else 1.0)
            if before != out or (stage and i == 0):
                draw.layer(f"{name}.downsample.0", (out, before, 1, 1), gain=1.0, bias=False)
                draw.norm(f"{name}.downsample.1", out)
            before = out
    return widths


def draw_pyramid(draw, kind, version, widths, channels):
    """The pyramid's state."""
    norm = "batch" if kind == "faster_rcnn" and version == 2 else None
    taken = widths if kind == "faster_rcnn" else widths[1:]
    for i, width in enumerate(taken):
        draw.conv_norm(f"backbone.fpn.inner_blocks.{i}", (channels, width, 1, 1), norm, gain=1.0)
        draw.conv_norm(f"backbone.fpn.layer_blocks.{i}", (channels, channels, 3, 3), norm, gain=2.0)
    if kind != "faster_rcnn":
        given = channels if version == 1 else widths[-1]
        draw.layer("backbone.fpn.extra_blocks.p6", (channels, given, 3, 3), gain=1.0)
        draw.layer("backbone.fpn.extra_blocks.p7", (channels, channels, 3, 3))


def draw_faster_rcnn(draw, version, num_classes, channels, hidden):
    """The state of the proposal network and of the box head."""
    square = (channels, channels, 3, 3)
    for i in range(version):
        draw.conv_norm(f"rpn.head.conv.{i}", square, None)
    draw.layer("rpn.head.cls_logits", (3, channels, 1, 1), gain=0.5)
    draw.layer("rpn.head.bbox_pred", (12, channels, 1, 1), gain=0.03)
    head, flat = "roi_heads.box_head", 49 * channels
    if version == 1:
        draw.layer(f"{head}.fc6", (hidden, flat))
        draw.layer(f"{head}.fc7", (hidden, hidden))
    else:
        for i in range(4):
            draw.conv_norm(f"{head}.{i}", square, "batch")
        draw.layer(f"{head}.5", (hidden, flat))
    draw.layer("roi_heads.box_predictor.cls_score", (num_classes, hidden), gain=2.0)
    draw.layer("roi_heads.box_predictor.bbox_pred", (4 * num_classes, hidden), gain=1.0)


def draw_retinanet(draw, version, num_classes, channels):
    """The state of the two dense heads; the never-used class 0 gets a strongly negative bias."""
    for part, last, values in (("classification", "cls_logits", num_classes), ("regression", "bbox_reg", 4)):
        head = f"head.{part}_head"
        for i in range(4):
            draw.conv_norm(f"{head}.conv.{i}", (channels, channels, 3, 3), "group" if version == 2 else None)
        draw.layer(f"{head}.{last}", (9 * values, channels, 3, 3), gain=2.0 if values == num_classes else 0.1)
    bias = draw.state["head.classification_head.cls_logits.bias"]
    bias -= 3
    bias.reshape(9, num_classes)[:, 0] = -50


def draw_fcos(draw, num_classes, channels):
    """The state of the dense heads, whose convolutions have a bias beside their norm; class 0 is never used."""
    for part in ("classification", "regression"):
        for i in range(4):
            draw.layer(f"head.{part}_head.conv.{3 * i}", (channels, channels, 3, 3))
            draw.norm(f"head.{part}_head.conv.{3 * i + 1}", channels, running=False)
    draw.layer("head.classification_head.cls_logits", (num_classes, channels, 3, 3), gain=2.0)
    draw.layer("head.regression_head.bbox_reg", (4, channels, 3, 3), gain=1.0)
    draw.layer("head.regression_head.bbox_ctrness", (1, channels, 3, 3), gain=2.0)
    draw.state["head.classification_head.cls_logits.bias"] -= 2
    draw.state["head.classification_head.cls_logits.bias"][0] = -50
    draw.state["head.regression_head.bbox_reg.bias"] += 2


def names_before_0_13(state):
    """The state under the names torchvision used before 0.13, which had version 1 only."""
    out = {}
    for name, value in state.items():
        name = re.sub(r"((?:inner|layer)_blocks\.\d+)\.0\.", r"\1.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        tower = re.fullmatch(r"(head\.\w+\.conv)\.(\d)\.0\.(\w+)", name)
        out[f"{tower[1]}.{2 * int(tower[2])}.{tower[3]}" if tower else name] = value
    return out


def random_state_dict(
    kind, depth, version, num_classes, seed, width=64, channels=256, hidden=1024, old_names=False
) -> dict[str, np.ndarray]:
    """Random numbers under torchvision's names, with activations of a sane scale and varied scores and boxes.

    `kind` is "faster_rcnn", "retinanet" or "fcos", `depth` 18 or 50, `version` 1 or 2, of which FCOS has the first
    alone; `num_classes` counts class 0.
    `old_names` gives the names from before torchvision 0.13.
    """
    known = kind in KINDS and depth in BLOCKS and version in (1, 2)
    if not known or (version == 2 and (old_names or kind == "fcos")):
        raise ValueError(f"no such model: {kind} {depth} version {version}, old_names={old_names}")
    draw = Draw(seed)
    draw_pyramid(draw, kind, version, draw_resnet(draw, depth, width), channels)
    if kind == "faster_rcnn":
        draw_faster_rcnn(draw, version, num_classes, channels, hidden)
    elif kind == "fcos":
        draw_fcos(draw, num_classes, channels)
    else:
        draw_retinanet(draw, version, num_classes, channels)
    return names_before_0_13(draw.state) if old_names else draw.state
