"""Torchvision's detectors with ResNet-FPN as calls to be timed beside ours."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CLASSES = 80


class TorchSide:
    """One detector on one device, in turn in float32 and in mixed precision.

    Attributes:
      model: the detector, with frozen batch norms and every convolution trained.
    """

    def __init__(self, peer: tuple[Any, Any], detector: str, *, device: str):
        self.torch, self.torchvision = peer
        self.device = device
        # What jax does by default: products of float32 in TF32 where the device has it.
        self.torch.backends.cuda.matmul.allow_tf32 = self.torch.backends.cudnn.allow_tf32 = True
        self.torch.backends.cudnn.benchmark = True
        self.torch.manual_seed(0)
        self.model = self._build(detector).to(device)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights under torchvision's names."""
        return {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}

    def train(
        self, images: np.ndarray, boxes: np.ndarray, labels: np.ndarray, *, mixed: bool, compiled: bool
    ) -> Callable[[], float]:
        """A step of SGD on [b h w 3] bytes, [b g 4] boxes and [b g] labels; the call returns its loss."""
        model, pictures = self._ready(images, mixed=mixed, compiled=compiled)
        torch = self.torch  # its class 0 is the background, or one that is never used
        targets = [
            {"boxes": torch.from_numpy(b).to(self.device), "labels": torch.from_numpy(n + 1).long().to(self.device)}
            for b, n in zip(boxes, labels, strict=True)
        ]
        model.train()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=1e-4, momentum=0.9, weight_decay=1e-4)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with self._precision(mixed):
                losses = model(pictures, targets)
            loss: Any = sum(losses.values())
            loss.backward()
            optimizer.step()
            return float(loss.detach())  # waits for the device

        return step

    def infer(self, images: np.ndarray, *, mixed: bool, compiled: bool) -> Callable[[], list[np.ndarray]]:
        """Detection in [b h w 3] bytes; the call returns each picture's scores."""
        model, pictures = self._ready(images, mixed=mixed, compiled=compiled)
        model.eval()

        def detect() -> list[np.ndarray]:
            with self.torch.inference_mode(), self._precision(mixed):
                found = model(pictures)
            return [one["scores"].float().cpu().numpy() for one in found]

        return detect

    def peak(self, call: Callable) -> float | None:
        """Most megabytes that torch holds on a GPU during the call, weights included; None on a CPU."""
        if self.device != "cuda":
            return None
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()
        call()
        return self.torch.cuda.max_memory_allocated() / 1e6

    def _build(self, detector: str) -> Any:
        from torchvision.models import detection  # pyright: ignore[reportMissingImports]
        from torchvision.models.detection.backbone_utils import (  # pyright: ignore[reportMissingImports]
            resnet_fpn_backbone,
        )
        from torchvision.ops import feature_pyramid_network, misc  # pyright: ignore[reportMissingImports]

        two_stage = detector == "faster_rcnn"
        body: dict[str, Any] = {
            "backbone_name": "resnet50",
            "weights": None,
            "norm_layer": misc.FrozenBatchNorm2d,
            "trainable_layers": 5,
        }
        options = {"_skip_resize": True}  # the pictures have their size
        if two_stage:
            model = detection.FasterRCNN(resnet_fpn_backbone(**body), num_classes=CLASSES + 1, **options)
        else:
            extra = feature_pyramid_network.LastLevelP6P7(256, 256)
            backbone = resnet_fpn_backbone(**body, returned_layers=[2, 3, 4], extra_blocks=extra)
            model = detection.RetinaNet(backbone, num_classes=CLASSES + 1, **options)
        with self.torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith("bn3.weight"):
                    buffer.fill_(0.2)  # else random features grow with every block
        return model

    def _ready(self, images: np.ndarray, *, mixed: bool, compiled: bool) -> tuple[Any, Sequence[Any]]:
        torch = self.torch
        layout = torch.channels_last if mixed else torch.contiguous_format
        model = copy.deepcopy(self.model).to(memory_format=layout)
        if compiled:  # what comes after has shapes that depend on what is found
            model.backbone = torch.compile(model.backbone)
        scaled = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        return model, list(scaled.contiguous())

    def _precision(self, mixed: bool) -> Any:
        if not mixed:
            return contextlib.nullcontext()
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16)
