"""Runs a bundle's ONNX graph with onnxruntime, numpy and safetensors, and nothing of edge-bdl.

    python examples/plain_onnxruntime.py NAME.ebdl FRAME.npy

For bundles with one input and a bank of masks or weights. Prints what the members say together, as JSON. A bundle that
was exported with --self-contained has a file, self_contained.onnx, that does all of this by itself.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file


def members_of(folder: Path, manifest: dict) -> dict[str, np.ndarray]:
    """The bank as the graph takes it, float32 [members, *shape] by input name.

    Masks are packed, one bit a unit; integers have a scale per member and first axis.
    """
    bank, stored = manifest["bank"], load_file(folder / "bank.safetensors")
    feeds = {}
    if manifest["form"] != "mask_bank":
        for name in (weight["name"] for weight in bank["inputs"] if weight["name"] in stored):
            feeds[name] = stored[name].astype(np.float32)
            scale = stored.get(f"{name}.scale")
            if scale is not None:
                feeds[name] *= scale.reshape(*scale.shape, *(1 for _ in feeds[name].shape[2:]))
        return feeds
    for mask in bank["inputs"]:
        keep = np.unpackbits(stored[mask["name"]], axis=1, count=int(np.prod(mask["shape"])))
        feeds[mask["name"]] = (keep * np.float32(mask["scale"])).reshape(bank["members"], *mask["shape"])
    return feeds


def together(manifest: dict, members: np.ndarray) -> dict[str, list]:
    """Mean and uncertainty of members [S, ...]; nats, or squared units of the target.

    Independent members' spread is too small by the factor 1 - 1/S. Temperature and interval scale, where the manifest
    has some, are not applied.
    """
    members = members.astype(np.float64)
    inflation = len(members) / (len(members) - 1) if manifest["bank"]["selection"] in ("iid", "given") else 1.0
    if manifest["task"] == "classification":
        axis = manifest["class_axis"]
        probabilities = np.exp(members - members.max(axis + 1, keepdims=True))
        probabilities /= probabilities.sum(axis + 1, keepdims=True)
        mean = probabilities.mean(0)
        aleatoric = entropy(probabilities, axis + 1).mean(0)
        epistemic = (entropy(mean, axis) - aleatoric) * inflation
    elif manifest["task"] == "heteroscedastic":
        means, log_variances = np.split(members, 2, axis=-1)
        mean, aleatoric, epistemic = means.mean(0), np.exp(log_variances).mean(0), means.var(0) * inflation
    else:
        mean, epistemic = members.mean(0), members.var(0) * inflation
        aleatoric = np.zeros_like(mean)
    return {"mean": mean.tolist(), "aleatoric": aleatoric.tolist(), "epistemic": epistemic.tolist()}


def entropy(probabilities: np.ndarray, axis: int) -> np.ndarray:
    """In nats."""
    return -(probabilities * np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))).sum(axis)


def main() -> None:
    """Predict one frame."""
    folder, frame = Path(sys.argv[1]), np.load(sys.argv[2])
    manifest = json.loads((folder / "manifest.json").read_text())
    (spec,) = manifest["inputs"]
    session = onnxruntime.InferenceSession(folder / "fused.onnx", providers=["CPUExecutionProvider"])
    feeds = {spec["name"]: frame.reshape(spec["shape"]), **members_of(folder, manifest)}
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, feeds), strict=True))
    said = together(manifest, outputs["members"])
    if "density" in outputs:
        said["density"] = outputs["density"].tolist()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
