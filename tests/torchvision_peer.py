"""The real torchvision, where it is installed: its detectors, and their values at every stage."""

import numpy as np
import torchvision_reference as reference


def model_of(kind, depth, version):
    """The real model, uninitialised, of five classes."""
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    if depth == 50:
        name = kind.replace("_", "", kind == "faster_rcnn") + "_resnet50_fpn" + "_v2" * (version == 2)
        return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5)
    body = {"backbone_name": "resnet18", "weights": None, "trainable_layers": 5}
    if kind == "faster_rcnn":
        return detection.FasterRCNN(resnet_fpn_backbone(**body), num_classes=5)
    extra = LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(**body, returned_layers=[2, 3, 4], extra_blocks=extra)
    return {"retinanet": detection.RetinaNet, "fcos": detection.FCOS}[kind](backbone, num_classes=5)


def stages_of(kind, model, image):
    """The real model's values under the reference's names, and its detections."""
    import torch
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    sides = sorted(image.shape[:2])
    model.transform = GeneralizedRCNNTransform(*sides, list(reference.MEAN), list(reference.STD))
    parts, seen = {"backbone": model.backbone, "head": model.rpn.head if kind == "faster_rcnn" else model.head}, {}
    if kind == "faster_rcnn":
        parts |= {"rpn": model.rpn, "pool": model.roi_heads.box_roi_pool, "predictor": model.roi_heads.box_predictor}
    for name, part in parts.items():
        part.register_forward_hook(lambda _part, _given, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        found = model.eval()([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
    stages = {"pyramid": list(seen["backbone"].values())}
    if kind != "faster_rcnn":
        stages |= {"logits": [seen["head"]["cls_logits"][0]], "deltas": [seen["head"]["bbox_regression"][0]]}
        stages |= {"quality": [seen["head"]["bbox_ctrness"][0]]} if kind == "fcos" else {}
    else:
        objectness = [reference.by_anchor(x.numpy(), 1)[:, 0] for x in seen["head"][0]]
        deltas = [reference.by_anchor(x.numpy(), 4) for x in seen["head"][1]]
        logits, box_deltas = seen["predictor"]
        stages |= {"objectness": objectness, "rpn_deltas": deltas, "rois": [seen["rpn"][0][0]]}
        stages |= {"pooled": [seen["pool"]], "class_logits": [logits], "box_deltas": [box_deltas.unflatten(1, (-1, 4))]}
    stages = {name: [np.asarray(x) for x in values] for name, values in stages.items()}
    return stages, [found[name].numpy() for name in ("boxes", "scores", "labels")]


def fcos_losses_of(model, images, truths):
    """The real FCOS's three losses of a batch of uint8 pictures; labels count class 0.

    The pictures are padded to the largest of them and to multiples of 32, and are not resized.
    """
    import torch
    from torchvision.models.detection.image_list import ImageList

    pixels = [model.transform.normalize(torch.from_numpy(image).permute(2, 0, 1).float() / 255) for image in images]
    batch = ImageList(model.transform.batch_images(pixels), [image.shape[:2] for image in images])
    targets = [
        {"boxes": torch.from_numpy(boxes).float(), "labels": torch.from_numpy(labels)} for boxes, labels in truths
    ]
    with torch.no_grad():
        levels = list(model.eval().backbone(batch.tensors).values())
        anchors, counts = model.anchor_generator(batch, levels), [level[0, 0].numel() for level in levels]
        losses = model.compute_loss(targets, model.head(levels), anchors, counts)
    names = {"class": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
    return {name: losses[theirs].item() for name, theirs in names.items()}
