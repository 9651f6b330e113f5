"""``edge-bdl export``: a model from the command line to a bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edge_bdl.errors import ExportError, InputError
from edge_bdl.manifest import Manifest
from edge_bdl_export.choose import AUTO, Samples
from edge_bdl_export.exporter import export as export_model
from edge_bdl_train.callers_code import call
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.posterior_file import is_posterior_file, load_posterior
from edge_bdl_train.recipes import open_recipe, recipe_of


def export(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad input, an unsupported model, or a failed proof; the caller words it.
    """
    options = _parser().parse_args(argv)
    model, members = _model(options.factory, options.weights)
    manifest = export_model(
        model,
        _example(options.example),
        options.out,
        task=options.task,
        samples=options.samples,
        calibration=options.calibration,
        selection=options.selection,
        fidelity=options.fidelity,
        outsiders=options.outsiders,
        members=members,
        deterministic=options.deterministic,
        stochastic_from=options.stochastic_from,
        formats=options.formats.split(","),
        class_axis=options.class_axis,
        name=options.name,
        seed=options.seed,
        self_contained=options.self_contained,
        weights=options.precision,
        bank=options.bank_precision,
        accept_loss=options.accept_loss,
        form=options.form,
    )
    print(json.dumps(_summary(manifest, options.out)) if options.json else _text(manifest, options.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-bdl export", description="Turn a trained Bayesian network into a bundle."
    )
    parser.add_argument(
        "factory",
        metavar="MODULE:FACTORY",
        help="what builds the model, for example mypackage.nets:build, or gives a posterior, an adapter, or (model, "
        "members); or the file of a recipe's checkpoint or posterior",
    )
    parser.add_argument("--weights", type=Path, help="safetensors file with the trained weights, or with a posterior")
    parser.add_argument(
        "--example", type=Path, required=True, help=".npy file with one input; its shape is the bundle's"
    )
    parser.add_argument(
        "--calibration", type=Path, help=".npz file: inputs, and optionally labels, episodes, split, period_s"
    )
    parser.add_argument("--task", default="regression", choices=("regression", "heteroscedastic", "classification"))
    parser.add_argument(
        "--samples", type=_samples, default=16, help="members in the bank, or auto for as few as will do (default: 16)"
    )
    parser.add_argument("--selection", default="balanced", choices=("iid", "balanced", "selected"))
    parser.add_argument(
        "--fidelity", type=float, default=0.97,
        help="what auto is to reach: the epistemic score's rank correlation with the full posterior's (default: 0.97)",
    )  # fmt: skip
    parser.add_argument(
        "--outsiders", type=Path, help=".npz file: inputs that the network should not know, to tell apart by its score"
    )
    parser.add_argument("--deterministic", nargs="*", default=[], metavar="MODULE", help="modules to hold at eval")
    parser.add_argument(
        "--stochastic-from", metavar="MODULE", help="first module to stay random; all before it is put to its mean"
    )
    parser.add_argument("--formats", default="onnx,tflite", help="onnx, tflite or both (default: onnx,tflite)")
    parser.add_argument(
        "--class-axis", type=int, default=1, help="which axis of the output holds the classes (default: 1)"
    )
    parser.add_argument(
        "--self-contained", action="store_true", help="also write one ONNX file that gives mean and uncertainty"
    )
    parser.add_argument(
        "--precision", default="fp32", choices=("fp32", "fp16", "int8"),
        help="of the weights: fp16 is half the size, int8 also computes in integers (default: fp32)",
    )  # fmt: skip
    parser.add_argument(
        "--bank-precision", default="fp32", choices=("fp32", "fp16", "int8"), help="of a bank of weights"
    )
    parser.add_argument(
        "--form", choices=("moments", "weight_bank"),
        help="moments: mean and variance in one pass; weight_bank: members where a closed form would do (default: as "
        "the posterior has it)",
    )  # fmt: skip
    parser.add_argument("--accept-loss", action="store_true", help="write it although it costs more than is allowed")
    parser.add_argument("--name", help="human name of the bundle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write, NAME.ebdl")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _samples(text: str) -> Samples:
    return AUTO if text == AUTO else int(text)


def _model(factory: str, weights: Path | None) -> tuple[Any, Any]:
    """What is to be exported, and its members if they come apart from it."""
    if Path(factory).is_file() and weights is None:
        return _of_recipe(Path(factory)), None
    built = call(factory, "FACTORY", ", nor a file")
    if weights is not None:
        return _weighted(built, weights, factory), None
    return built if isinstance(built, tuple) and len(built) == 2 else (built, None)


def _of_recipe(path: Path) -> nn.Module | Posterior:
    recipe = open_recipe(recipe_of(path))
    return recipe.load_posterior(path) if is_posterior_file(path) else recipe.load(path)


def _weighted(built: Any, weights: Path, factory: str) -> nn.Module | Posterior:
    """The model with what the file holds: its own weights, or a posterior of it."""
    if not isinstance(built, nn.Module):
        raise InputError(
            f"{factory}() gave a {type(built).__name__}; --weights are for a torch.nn.Module, so return one or leave "
            "them out"
        )
    if is_posterior_file(weights):
        return load_posterior(weights, built)
    _load(built, weights)
    return built


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
    if manifest.closed is None:
        lines.append(f"{manifest.flops.deterministic_share:.0%} of the computation is shared by all members")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in manifest.warnings)])
