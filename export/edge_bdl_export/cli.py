"""``edge-bdl export``: a model from the command line to a bundle."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edge_bdl.errors import ExportError, InputError
from edge_bdl.manifest import Manifest
from edge_bdl_export.exporter import export as export_model
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.posterior_file import is_posterior_file, load_posterior


def export(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad input, an unsupported model, or a failed proof; the caller words it.
    """
    options = _parser().parse_args(argv)
    manifest = export_model(
        _model(options.factory, options.weights),
        _example(options.example),
        options.out,
        task=options.task,
        samples=options.samples,
        calibration=options.calibration,
        selection=options.selection,
        deterministic=options.deterministic,
        formats=options.formats.split(","),
        class_axis=options.class_axis,
        name=options.name,
        seed=options.seed,
    )
    print(json.dumps(_summary(manifest, options.out)) if options.json else _text(manifest, options.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-bdl export", description="Turn a trained Bayesian network into a bundle."
    )
    parser.add_argument(
        "factory", metavar="MODULE:FACTORY", help="what builds the model, for example mypackage.nets:build"
    )
    parser.add_argument("--weights", type=Path, help="safetensors file with the trained weights, or with a posterior")
    parser.add_argument(
        "--example", type=Path, required=True, help=".npy file with one input; its shape is the bundle's"
    )
    parser.add_argument(
        "--calibration", type=Path, help=".npz file: inputs, and optionally labels, episodes, split, period_s"
    )
    parser.add_argument("--task", default="regression", choices=("regression", "heteroscedastic", "classification"))
    parser.add_argument("--samples", type=int, default=16, help="members in the bank (default: 16)")
    parser.add_argument("--selection", default="balanced", choices=("iid", "balanced", "selected"))
    parser.add_argument("--deterministic", nargs="*", default=[], metavar="MODULE", help="modules to hold at eval")
    parser.add_argument("--formats", default="onnx,tflite", help="onnx, tflite or both (default: onnx,tflite)")
    parser.add_argument(
        "--class-axis", type=int, default=1, help="which axis of the output holds the classes (default: 1)"
    )
    parser.add_argument("--name", help="human name of the bundle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write, NAME.ebdl")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _model(factory: str, weights: Path | None) -> nn.Module | Posterior:
    module_name, _, name = factory.partition(":")
    if not module_name or not name:
        raise InputError(f"{factory!r} is not MODULE:FACTORY; for example mypackage.nets:build")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the caller's own modules, as with python -m
    try:
        factory_function = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # importing runs the caller's code
        raise InputError(
            f"{factory} cannot be imported ({_said(error)}); run from where {module_name} can be imported"
        ) from error
    try:
        built = factory_function()
    except Exception as error:  # so does building
        raise InputError(f"{factory}() failed ({_said(error)}); it must build the model without arguments") from error
    if not isinstance(built, nn.Module):
        raise InputError(f"{factory}() gave a {type(built).__name__}; it must return a torch.nn.Module")
    if weights is None:
        return built
    if is_posterior_file(weights):
        return load_posterior(weights, built)
    _load(built, weights)
    return built


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({error}); write it with safetensors.torch.save_file"
        ) from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ExportError(f"{path} does not fit the model: {' '.join(lines)}") from error


def _example(path: Path) -> NDArray[np.generic]:
    try:
        # numpy leaves a file open that it cannot read, but not one that it was given open.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is not an .npy file ({error}); write it with np.save") from error
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{path} is an archive; --example takes one array in an .npy file")
    return loaded


def _summary(manifest: Manifest, out: Path) -> dict[str, object]:
    return {
        "bundle": str(out),
        "name": manifest.name,
        "form": manifest.form,
        "members": manifest.bank.members,
        "engines": list(manifest.engines),
        "deterministic_flops_share": manifest.flops.deterministic_share,
        "checks": len(manifest.parity),
        "warnings": list(manifest.warnings),
    }


def _text(manifest: Manifest, out: Path) -> str:
    size, bank = sum(entry.bytes for entry in manifest.files.values()), manifest.bank
    members = f"{bank.members} members ({bank.selection})" if bank.inputs else "in closed form"
    lines = [
        f"{out}: {manifest.form}, {members}, {size / 1e6:.2f} MB",
        f"proved under {', '.join(manifest.engines)}: {len(manifest.parity)} checks passed",
    ]
    if manifest.form != "gaussian_head":
        lines.append(f"{manifest.flops.deterministic_share:.0%} of the computation is shared by all members")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in manifest.warnings)])
