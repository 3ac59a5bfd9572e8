"""Query detectors from folders of Hugging Face: RT-DETR, RT-DETRv2 and D-FINE, with every leaf matched."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build, given_classes, licence
from jaxkd.weights import hub_config, hub_names, read, tree
from jaxkd.weights.hub_config import Description

FILE, SHARDS = "model.safetensors", "model.safetensors.index.json"
KINDS = {False: "detectors.rt_detr", True: "detectors.d_fine"}
PARTS = {False: ("nets.resnet_d", "nets.hybrid_encoder"), True: ("nets.hgnet", "nets.elan_encoder")}


def is_one(path: Path) -> bool:
    """Whether a path is a folder whose config.json names a model type, as those of Hugging Face do."""
    return path.is_dir() and hub_config.model_type(path) != ""


def load(folder: Path, *, classes: Sequence[str] = ()) -> build.Loaded:
    """The detector as `load_with_report` gives it, without the report."""
    return load_with_report(folder, classes=classes)[0]


def load_with_report(folder: Path, *, classes: Sequence[str] = ()) -> tuple[build.Loaded, str]:
    """The detector in a folder with config.json, model.safetensors and preprocessor_config.json, and a report.

    Nothing in the folder is executed. The `notes` of the detector say what was assumed.

    Args:
      folder: of Hugging Face.
      classes: names of its classes by column; where empty, those of the folder.

    Raises WeightsError where the folder is broken or describes what is not read here, a leaf is missing, unused or
    misshapen, or `classes` are more or fewer than its own; ConfigError where a name in `classes` is empty or repeated.
    """
    description = hub_config.describe(folder)
    arrays = _arrays(folder)
    try:
        leaves = hub_names.to_jaxkd(arrays, fine=description.fine, points=description.decoder["points"])
        if description.fine:
            for name, value in description.constants.items():
                leaves.setdefault(f"decoder/{name}", np.array([value], np.float32))
        names = _class_names(description, leaves, classes)
        config = _config(description, denoising=hub_names.DENOISING in leaves)
        detector = build.detector(config, names)
        params, report = tree.match(build.param_shapes(detector), leaves)
    except (WeightsError, ConfigError) as error:
        if isinstance(error, ConfigError) and classes:
            raise
        raise WeightsError(f"{folder}: {error}") from error
    idle = [name for name in arrays if hub_names.is_constant(name)]
    notes = (
        f"{description.model_type} of Hugging Face: {len(report.matched)} leaves matched.",
        *description.notes,
        licence.of_folder(folder),
    )
    rows = [f"no leaf   {name}" for name in idle]
    params = jax.tree.map(jax.numpy.asarray, params)
    loaded = build.Loaded(detector, params, config, {}, dict(description.sizes), notes=notes)
    return loaded, "\n".join([*notes, *rows])


def file_of(folder: Path) -> Path:
    """The file of the weights in a folder of Hugging Face, which may be missing."""
    return folder / FILE


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    if (folder / SHARDS).is_file():
        raise WeightsError(f"The weights in {folder} are in several files; save the model in one, and give that.")
    if not file_of(folder).is_file():
        raise WeightsError(
            f"{folder} holds no {FILE}, which its weights are read from; fetch it, or save the model so."
        )
    return read.read(file_of(folder))


def _config(description: Description, *, denoising: bool) -> configs.Recipe:
    """The recipe's component of the detector; `denoising` says whether the folder has what its queries start from."""
    backbone, neck = PARTS[description.fine]
    return configs.component(
        KINDS[description.fine],
        backbone=configs.component(backbone, **description.backbone),
        neck=configs.component(neck, **description.neck),
        decoder=description.decoder,
        pixels=description.pixels,
        denoising={} if denoising else {"queries": 0},
    )


def _class_names(description: Description, leaves: dict[str, np.ndarray], given: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, as many as there are columns."""
    head = leaves.get("decoder/logits_0/kernel")
    if head is None or head.ndim != 2:
        raise WeightsError("The weights have no class_embed.0 of the decoder, so they are those of no detector.")
    if given:
        return given_classes.checked(given, columns=head.shape[1])
    if len(description.classes) != head.shape[1]:
        has = phrases.counted(len(description.classes), "name") if description.classes else "no names"
        raise WeightsError(
            f"The weights have {head.shape[1]} classes, and config.json has {has} for them; give as many, in the "
            "file's order: jaxkd convert FOLDER --classes=a,b,c --out=DIR."
        )
    if len(set(description.classes)) < len(description.classes) or "" in description.classes:
        raise WeightsError("The names of the classes in config.json are empty or repeated; give others by --classes.")
    return description.classes
