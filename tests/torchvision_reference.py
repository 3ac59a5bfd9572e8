"""Slow numpy forward passes of torchvision's Faster R-CNN, RetinaNet and FCOS with ResNet-FPN, for tests.

They work on a state dict {torchvision's name: array}, in float64 and NCHW, on one picture, which is padded to
multiples of 32. Depth, kind of block and version (1 or 2) are read off the names and shapes.
"""

import re
from dataclasses import dataclass

import numpy as np
from torchvision_state import random_state_dict as random_state_dict

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
RATIOS = (0.5, 1.0, 2.0)
RPN_SIZES = tuple((s,) for s in (32, 64, 128, 256, 512))
RETINANET_SIZES = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512))
FCOS_SIZES = tuple((s,) for s in (8, 16, 32, 64, 128))
ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
GROUPS, GROUP_EPS = 32, 1e-5


@dataclass
class FasterRCNNRecord:
    """Every stage of Faster R-CNN on one picture; dense values are ordered by row, column, anchor."""

    pyramid: list  # (1, C, H, W) per level: P2..P5, pool
    anchors: list  # (H*W*A, 4) per level
    objectness: list  # (H*W*A,) logits per level
    rpn_deltas: list  # (H*W*A, 4) per level
    proposals: np.ndarray  # (P, 4), best first
    proposal_scores: np.ndarray  # (P,)
    rois: np.ndarray  # (R, 4): the boxes read by the box head: those given, else the proposals
    pooled: np.ndarray  # (R, C, 7, 7)
    class_logits: np.ndarray  # (R, K), background first
    box_deltas: np.ndarray  # (R, K, 4)
    boxes: np.ndarray  # detections of the rois, best first
    scores: np.ndarray
    labels: np.ndarray


@dataclass
class RetinaNetRecord:
    """Every stage of RetinaNet on one picture; dense values are ordered by row, column, anchor."""

    pyramid: list  # (1, C, H, W) per level: P3..P7
    anchors: list  # (H*W*A, 4) per level
    logits: list  # (H*W*A, K) per level; column 0 is torchvision's never-used class
    deltas: list  # (H*W*A, 4) per level
    boxes: np.ndarray  # detections, best first
    scores: np.ndarray
    labels: np.ndarray


@dataclass
class FCOSRecord:
    """Every stage of FCOS on one picture; dense values are ordered by row and column."""

    pyramid: list  # (1, C, H, W) per level: P3..P7
    anchors: list  # (H*W, 4) per level
    logits: list  # (H*W, K) per level; column 0 is torchvision's never-used class
    deltas: list  # (H*W, 4) per level: distances to the sides in strides
    quality: list  # (H*W, 1) per level: logits of centre-ness
    boxes: np.ndarray  # detections, best first
    scores: np.ndarray
    labels: np.ndarray


# Layers


def conv(x, weight, bias=None, stride=1):
    """Convolution of (N, I, H, W) with (O, I, k, k), padded by k // 2 on every side."""
    k = weight.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    h, w = ((side - k) // stride + 1 for side in x.shape[2:])
    out = np.zeros((len(x), len(weight), h * w), x.dtype)
    for dy in range(k):
        for dx in range(k):
            tap = x[:, :, dy : dy + stride * (h - 1) + 1 : stride, dx : dx + stride * (w - 1) + 1 : stride]
            out += weight[:, :, dy, dx] @ tap.reshape(len(x), -1, h * w)
    out = out if bias is None else out + bias[:, None]
    return out.reshape(len(x), len(weight), h, w)


def max_pool(x):
    """Maximum over 3x3 windows at stride 2, padded by one."""
    h, w = ((side - 1) // 2 + 1 for side in x.shape[2:])
    x = np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2)), constant_values=-np.inf)
    taps = [x[:, :, dy : dy + 2 * h : 2, dx : dx + 2 * w : 2] for dy in range(3) for dx in range(3)]
    return np.max(taps, axis=0)


def batch_norm(state, name, x, eps):
    """Batch normalisation by the running statistics."""
    scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + eps)
    shift = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def group_norm(state, name, x):
    """Group normalisation over 32 groups of channels."""
    groups = x.reshape(len(x), GROUPS, -1)
    spread = np.sqrt(groups.var(axis=2, keepdims=True) + GROUP_EPS)
    x = ((groups - groups.mean(axis=2, keepdims=True)) / spread).reshape(x.shape)
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def named_conv(state, name, x, stride=1):
    """The convolution of this name, with a bias where there is one."""
    return conv(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride)


def conv_norm(state, name, x, eps):
    """Convolution `name.0` and, where the names show one, the normalisation `name.1`."""
    x = named_conv(state, f"{name}.0", x)
    if f"{name}.1.running_mean" in state:
        return batch_norm(state, f"{name}.1", x, eps)
    return group_norm(state, f"{name}.1", x) if f"{name}.1.weight" in state else x


def tower(state, name, x, eps):
    """As many `name.0`, `name.1`, ... as there are, each followed by a ReLU."""
    i = 0
    while f"{name}.{i}.0.weight" in state:
        x = np.maximum(conv_norm(state, f"{name}.{i}", x, eps), 0)
        i += 1
    return x


# Backbone


def residual_block(state, name, x, stride, eps):
    """A basic block, or a bottleneck where there is a third convolution; the stride is on the first 3x3."""
    short = x
    if f"{name}.downsample.0.weight" in state:
        short = named_conv(state, f"{name}.downsample.0", x, stride)
        short = batch_norm(state, f"{name}.downsample.1", short, eps)
    strides = (1, stride, 1) if f"{name}.conv3.weight" in state else (stride, 1)
    for i, step in enumerate(strides, start=1):
        x = batch_norm(state, f"{name}.bn{i}", named_conv(state, f"{name}.conv{i}", x, step), eps)
        x = np.maximum(x, 0) if i < len(strides) else x
    return np.maximum(x + short, 0)


def resnet(state, x, eps):
    """C2 to C5."""
    body = "backbone.body"
    x = np.maximum(batch_norm(state, f"{body}.bn1", named_conv(state, f"{body}.conv1", x, 2), eps), 0)
    x, out = max_pool(x), []
    for stage in range(1, 5):
        i = 0
        while f"{body}.layer{stage}.{i}.conv1.weight" in state:
            x = residual_block(state, f"{body}.layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1, eps)
            i += 1
        out.append(x)
    return out


def feature_pyramid(state, stages, eps):
    """P2..P5 and their subsampling, or P3..P7 where the names show `p6`."""
    fpn = "backbone.fpn"
    count = sum(f"{fpn}.inner_blocks.{i}.0.weight" in state for i in range(4))
    above, levels = None, []
    for i in reversed(range(count)):
        inner = conv_norm(state, f"{fpn}.inner_blocks.{i}", stages[i - count], eps)
        above = inner if above is None else inner + above.repeat(2, axis=2).repeat(2, axis=3)
        levels.insert(0, conv_norm(state, f"{fpn}.layer_blocks.{i}", above, eps))
    if f"{fpn}.extra_blocks.p6.weight" not in state:
        return [*levels, levels[-1][:, :, ::2, ::2]]
    wanted, given = state[f"{fpn}.extra_blocks.p6.weight"].shape[:2]
    p6 = named_conv(state, f"{fpn}.extra_blocks.p6", levels[-1] if wanted == given else stages[-1], 2)
    return [*levels, p6, named_conv(state, f"{fpn}.extra_blocks.p7", np.maximum(p6, 0), 2)]


# Boxes


def anchor_boxes(image_shape, pyramid, sizes, ratios=RATIOS):
    """(H*W*A, 4) anchors per level: rounded boxes about the corners of cells, ratio by ratio, size by size."""
    out = []
    for level, scales in zip(pyramid, sizes, strict=True):
        half = [(s / r**0.5 / 2, s * r**0.5 / 2) for r in ratios for s in scales]
        base = np.round([(-w, -h, w, h) for w, h in half])
        rows, columns = level.shape[2:]
        ys = np.arange(rows) * (image_shape[0] // rows)
        xs = np.arange(columns) * (image_shape[1] // columns)
        y, x = np.meshgrid(ys, xs, indexing="ij")
        out.append((np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4) + base).reshape(-1, 4))
    return out


def decode(boxes, deltas, weights=(1.0, 1.0, 1.0, 1.0)):
    """Boxes moved and stretched by their deltas."""
    dx, dy, dw, dh = np.moveaxis(deltas / np.asarray(weights), -1, 0)
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    x, y = boxes[..., 0] + w / 2 + dx * w, boxes[..., 1] + h / 2 + dy * h
    limit = np.log(1000 / 16)
    w, h = w * np.exp(np.minimum(dw, limit)), h * np.exp(np.minimum(dh, limit))
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=-1)


def clip(boxes, image_shape):
    """Boxes cut to the picture."""
    height, width = image_shape[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height]))


def sides_at_least(boxes, limit):
    """Which boxes have both sides of at least the limit."""
    return ((boxes[..., 2] - boxes[..., 0]) >= limit) & ((boxes[..., 3] - boxes[..., 1]) >= limit)


def nms(boxes, scores, threshold):
    """Indices kept, best first: a box goes where its IoU with a better kept box is above the threshold."""
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        inter = np.prod(np.maximum(high - low, 0), axis=1)
        order = rest[inter <= threshold * (area[best] + area[rest] - inter)]
    return np.array(kept, np.int64)


def group_nms(boxes, scores, groups, threshold):
    """Non-maximum suppression within each group; indices kept over all groups, best first."""
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    kept = np.concatenate([np.zeros(0, np.int64), *(m[nms(boxes[m], scores[m], threshold)] for m in members)])
    return kept[np.argsort(-scores[kept], kind="stable")]


def unmatched(found, wanted, pixels=1e-2, odds=1e-4):
    """How many wanted (boxes, scores, labels) lack a partner of their own, in whatever order near-equal scores fell."""
    free, missing = np.ones(len(found[0]), bool), 0
    for box, score, label in zip(*wanted, strict=True):
        near = (np.abs(found[0] - box) <= pixels).all(axis=1) & (np.abs(found[1] - score) <= odds)
        partners = np.flatnonzero(free & near & (found[2] == label))
        missing += len(partners) == 0
        free[partners[:1]] = False
    return missing


# Regions of interest


def bilinear(feature, y, x):
    """(C, n) values of a (C, H, W) map at points; zero beyond one cell outside, clamped to the rim within it."""
    height, width = feature.shape[1:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    fy, fx = y - top, x - left
    upper = feature[:, top, left] * (1 - fx) + feature[:, top, right] * fx
    lower = feature[:, bottom, left] * (1 - fx) + feature[:, bottom, right] * fx
    return (upper * (1 - fy) + lower * fy) * inside


def roi_align(feature, box, scale, size=7, samples=2):
    """(C, size, size) means of 2x2 samples per bin of a box, without the half-cell shift (aligned=False)."""
    x, y = box[0] * scale, box[1] * scale
    w, h = max((box[2] - box[0]) * scale, 1.0), max((box[3] - box[1]) * scale, 1.0)
    steps = (np.arange(size * samples) + 0.5) / (size * samples)
    grid_y, grid_x = np.meshgrid(y + h * steps, x + w * steps, indexing="ij")
    values = bilinear(feature, grid_y.ravel(), grid_x.ravel())
    return values.reshape(-1, size, samples, size, samples).mean(axis=(2, 4))


def pool_rois(pyramid, boxes):
    """(R, C, 7, 7): each box from the one of P2..P5 that its area asks for."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = np.clip(np.floor(4 + np.log2(np.sqrt(area) / 224) + 1e-6), 2, 5).astype(int)
    pooled = [roi_align(pyramid[k - 2][0], box, 0.5**k) for k, box in zip(level, boxes, strict=True)]
    return np.stack(pooled) if pooled else np.zeros((0, pyramid[0].shape[1], 7, 7))


def box_head(state, pooled, eps=1e-5):
    """Class logits (R, K) and box deltas (R, K, 4) of pooled features."""
    x = tower(state, "roi_heads.box_head", pooled, eps).reshape(len(pooled), -1)
    for name in ("fc6", "fc7", "5"):
        if f"roi_heads.box_head.{name}.weight" in state:
            x = np.maximum(linear(state, f"roi_heads.box_head.{name}", x), 0)
    deltas = linear(state, "roi_heads.box_predictor.bbox_pred", x)
    return linear(state, "roi_heads.box_predictor.cls_score", x), deltas.reshape(len(x), -1, 4)


def linear(state, name, x):
    """The dense layer of this name."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


# Detectors


def current_names(state):
    """The float64 state under the names torchvision has used since 0.13."""
    out = {}
    for name, value in state.items():
        name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
        name = re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)
        old = re.fullmatch(r"(head\.\w+_head\.conv)\.(\d)\.(weight|bias)", name)
        name = f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}" if old else name
        out[name] = np.asarray(value, np.float64)
    return out


def pyramid_of(state, image, eps):
    """The pyramid of a uint8 (H, W, 3) picture, which is padded with zeros once it is normalised."""
    if image.dtype != np.uint8:
        raise ValueError(f"wanted a uint8 picture, got {image.dtype}")
    x = np.zeros((1, 3, *padded_shape(image)))
    x[0, :, : image.shape[0], : image.shape[1]] = ((image / 255 - MEAN) / STD).transpose(2, 0, 1)
    return feature_pyramid(state, resnet(state, x, eps), eps)


def padded_shape(image):
    """Height and width of a picture once it is padded to multiples of 32."""
    return tuple(-(-side // 32) * 32 for side in image.shape[:2])


def by_anchor(x, values):
    """(1, A * values, H, W) to (H * W * A, values)."""
    return x[0].reshape(-1, values, *x.shape[2:]).transpose(2, 3, 0, 1).reshape(-1, values)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def propose(anchors, objectness, deltas, image_shape, pre_nms_top_n=1000, post_nms_top_n=1000, threshold=0.7):
    """Proposals and their scores, best first."""
    boxes, logits, levels = [], [], []
    for i, level in enumerate(zip(anchors, objectness, deltas, strict=True)):
        top = np.argsort(-level[1], kind="stable")[:pre_nms_top_n]
        boxes.append(clip(decode(level[0][top], level[2][top]), image_shape))
        logits.append(level[1][top])
        levels.append(np.full(len(top), i))
    boxes, scores, levels = np.concatenate(boxes), sigmoid(np.concatenate(logits)), np.concatenate(levels)
    good = sides_at_least(boxes, 1e-3)
    boxes, scores, levels = boxes[good], scores[good], levels[good]
    kept = group_nms(boxes, scores, levels, threshold)[:post_nms_top_n]
    return boxes[kept], scores[kept]


def detect_rois(rois, class_logits, box_deltas, image_shape, score_threshold=0.05, nms_threshold=0.5, best=100):
    """Detections of Faster R-CNN: boxes, scores and labels, without the background."""
    odds = np.exp(class_logits - class_logits.max(axis=1, keepdims=True))
    scores = odds / odds.sum(axis=1, keepdims=True)
    boxes = clip(decode(rois[:, None], box_deltas, ROI_WEIGHTS), image_shape)
    good = (scores > score_threshold) & sides_at_least(boxes, 1e-2)
    good[:, 0] = False
    boxes, scores, labels = boxes[good], scores[good], np.nonzero(good)[1]
    kept = group_nms(boxes, scores, labels, nms_threshold)[:best]
    return boxes[kept], scores[kept], labels[kept]


def faster_rcnn(state, image, rois=None, bn_eps=1e-5, pre_nms_top_n=1000, post_nms_top_n=1000):
    """Faster R-CNN on one picture; with `rois`, the box head and the detections take these instead of the proposals."""
    state = current_names(state)
    pyramid = pyramid_of(state, image, bn_eps)
    anchors = anchor_boxes(padded_shape(image), pyramid, RPN_SIZES)
    hidden = [tower(state, "rpn.head.conv", level, bn_eps) for level in pyramid]
    objectness = [by_anchor(named_conv(state, "rpn.head.cls_logits", x), 1)[:, 0] for x in hidden]
    deltas = [by_anchor(named_conv(state, "rpn.head.bbox_pred", x), 4) for x in hidden]
    proposals, scores = propose(anchors, objectness, deltas, image.shape, pre_nms_top_n, post_nms_top_n)
    rois = proposals if rois is None else np.asarray(rois, np.float64)
    pooled = pool_rois(pyramid, rois)
    logits, box_deltas = box_head(state, pooled, bn_eps)
    found = detect_rois(rois, logits, box_deltas, image.shape)
    return FasterRCNNRecord(
        pyramid, anchors, objectness, deltas, proposals, scores, rois, pooled, logits, box_deltas, *found
    )


def detect_dense(anchors, logits, deltas, image_shape, score_threshold=0.05, nms_threshold=0.5, top_k=1000, best=300):
    """Detections of RetinaNet: boxes, scores and labels; label 0 is torchvision's never-used class."""
    boxes, scores, labels = [], [], []
    for anchor, logit, delta in zip(anchors, logits, deltas, strict=True):
        score = sigmoid(logit).ravel()
        top = np.argsort(-score, kind="stable")[:top_k]
        top = top[score[top] > score_threshold]
        rows, columns = np.divmod(top, logit.shape[1])
        boxes.append(clip(decode(anchor[rows], delta[rows]), image_shape))
        scores.append(score[top])
        labels.append(columns)
    boxes, scores, labels = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    kept = group_nms(boxes, scores, labels, nms_threshold)[:best]
    return boxes[kept], scores[kept], labels[kept]


def retinanet(state, image, bn_eps=1e-5):
    """RetinaNet on one picture."""
    state = current_names(state)
    pyramid = pyramid_of(state, image, bn_eps)
    anchors = anchor_boxes(padded_shape(image), pyramid, RETINANET_SIZES)
    per_cell = len(RATIOS) * len(RETINANET_SIZES[0])
    classes = len(state["head.classification_head.cls_logits.weight"]) // per_cell
    logits, deltas = [], []
    for level in pyramid:
        x = tower(state, "head.classification_head.conv", level, bn_eps)
        logits.append(by_anchor(named_conv(state, "head.classification_head.cls_logits", x), classes))
        x = tower(state, "head.regression_head.conv", level, bn_eps)
        deltas.append(by_anchor(named_conv(state, "head.regression_head.bbox_reg", x), 4))
    return RetinaNetRecord(pyramid, anchors, logits, deltas, *detect_dense(anchors, logits, deltas, image.shape))


def fcos_tower(state, name, x):
    """As many `name.0`, `name.3`, ... as there are, each followed by its group normalisation and a ReLU."""
    i = 0
    while f"{name}.{i}.weight" in state:
        x = np.maximum(group_norm(state, f"{name}.{i + 1}", named_conv(state, f"{name}.{i}", x)), 0)
        i += 3
    return x


def detect_points(levels, image_shape, score_threshold=0.2, nms_threshold=0.6, top_k=1000, best=100):
    """Detections of FCOS from the anchors, logits, distances and centre-ness of each level."""
    boxes, scores, labels = [], [], []
    for anchor, logit, sides, quality in levels:
        score = np.sqrt(sigmoid(logit) * sigmoid(quality)).ravel()
        top = np.argsort(-score, kind="stable")[:top_k]
        top = top[score[top] > score_threshold]
        rows, columns = np.divmod(top, logit.shape[1])
        middle = (anchor[rows, :2] + anchor[rows, 2:]) / 2
        sides = sides[rows] * (anchor[rows, 2:] - anchor[rows, :2]).repeat(2, axis=1)
        boxes.append(clip(np.concatenate([middle - sides[:, :2], middle + sides[:, 2:]], axis=1), image_shape))
        scores.append(score[top])
        labels.append(columns)
    boxes, scores, labels = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    kept = group_nms(boxes, scores, labels, nms_threshold)[:best]
    return boxes[kept], scores[kept], labels[kept]


def fcos(state, image, bn_eps=1e-5):
    """FCOS on one picture."""
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    pyramid = pyramid_of(state, image, bn_eps)
    anchors = anchor_boxes(padded_shape(image), pyramid, FCOS_SIZES, ratios=(1.0,))
    logits, deltas, quality = [], [], []
    for level in pyramid:
        x = fcos_tower(state, "head.classification_head.conv", level)
        head = "head.classification_head.cls_logits"
        logits.append(by_anchor(named_conv(state, head, x), len(state[f"{head}.weight"])))
        x = fcos_tower(state, "head.regression_head.conv", level)
        deltas.append(np.maximum(by_anchor(named_conv(state, "head.regression_head.bbox_reg", x), 4), 0))
        quality.append(by_anchor(named_conv(state, "head.regression_head.bbox_ctrness", x), 1))
    found = detect_points(zip(anchors, logits, deltas, quality, strict=True), image.shape)
    return FCOSRecord(pyramid, anchors, logits, deltas, quality, *found)
