"""Graph models of TensorFlow.js, written by hand: a graph of convolutions, a manifest, and files of numbers."""

import json
import math

import numpy as np


def convolutions(leaves, *, prefix="PartitionedCall/", add="Add"):
    """The nodes of a graph with a convolution for each name of `leaves`, (kernel, bias or None); and its arrays.

    As in models converted from ONNX: the arrays' own names say nothing of the convolution's.
    """
    nodes, arrays = [], {}
    for number, (name, (kernel, bias)) in enumerate(leaves.items()):
        weights, vector, node = f"{prefix}split_{number}", f"unknown_{2 * number}", f"{prefix}{name}"
        nodes.append({"name": weights, "op": "Const"})
        nodes.append({"name": node, "op": "Conv2D", "input": [f"{prefix}transpose_{number}", weights], "attr": {}})
        arrays[weights] = kernel
        if bias is not None:
            nodes.append({"name": vector, "op": "Const"})
            nodes.append({"name": f"{prefix}{add}_{number}", "op": add, "input": [node, vector]})
            arrays[vector] = bias
    return nodes, arrays


def entry(name, array, *, dtype="float32", stored=None, scale=1.0, least=0.0):
    """An array of the manifest and its bytes; `stored` is the type that it is quantised to."""
    declared = {"name": name, "shape": list(np.shape(array)), "dtype": dtype}
    if stored in ("uint8", "uint16"):
        declared["quantization"] = {"dtype": stored, "scale": scale, "min": least, "original_dtype": dtype}
        array = np.round((np.asarray(array, np.float64) - least) / scale)
    elif stored:
        declared["quantization"] = {"dtype": stored, "original_dtype": dtype}
    return declared, np.asarray(array, order="C").astype(np.dtype(stored or dtype).newbyteorder("<")).tobytes()


def group(entries, *, names=("group1-shard1of1.bin",)):
    """A group of the manifest, and its files by name, all but the last of one length."""
    data = b"".join(content for _, content in entries)
    size = math.ceil(len(data) / len(names))
    files = {name: data[place * size : (place + 1) * size] for place, name in enumerate(names)}
    return {"paths": list(names), "weights": [declared for declared, _ in entries]}, files


def save(path, nodes, groups):
    """Writes the model; `groups` are results of `group`."""
    manifest = [declared for declared, _ in groups]
    model = {"format": "graph-model", "modelTopology": {"node": nodes}, "weightsManifest": manifest}
    path.write_text(json.dumps(model))
    for _, files in groups:
        for name, data in files.items():
            (path.parent / name).parent.mkdir(exist_ok=True)
            (path.parent / name).write_bytes(data)
