"""Does this machine compute what was proved at export? Goldens against engines, and against its own generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.engines import Engine
from edge_bdl.errors import EngineError
from edge_bdl.manifest import DENSITY_OUTPUT, DETERMINISTIC_OUTPUT, MEAN_OUTPUT, MEMBERS_OUTPUT, Manifest, Precision
from edge_bdl.sampling import Members, draw_keep, draw_normal, pack

Arrays = Mapping[str, NDArray[Any]]

# Members: of the output's range. Densities span orders of magnitude: of their own size.
TOLERANCE = 1e-5
DENSITY_TOLERANCE = 1e-3
# Of a standard deviation: machines round logarithms and cosines differently.
NORMAL_TOLERANCE = 1e-5


def tolerances(manifest: Manifest) -> tuple[float, float]:
    """How far members and densities may be from the goldens.

    Integers are rounded differently by different machines, so a bundle that computes in them says it itself.
    """
    if isinstance(manifest.precision, Precision):
        return manifest.precision.tolerance, manifest.precision.density_tolerance
    return TOLERANCE, DENSITY_TOLERANCE


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: What.
        engine: Under which engine; None where none is involved.
        passed: Whether it is as it must be.
        detail: What was measured and what is allowed, for people.
    """

    name: str
    engine: str | None = None
    passed: bool
    detail: str


def verify_generator(manifest: Manifest, golden: Arrays) -> list[Check]:
    """See that this machine draws fresh members as the exporter did; nothing to see where there are none.

    Args:
        manifest: The bundle's manifest.
        golden: The arrays of ``golden.safetensors``.
    """
    bank = manifest.bank
    if manifest.closed is not None:
        normals = draw_normal(bank, bank.members, bank.chunk)
        errors = [float(np.abs(rows - golden[f"fresh.{name}"]).max()) for name, rows in normals.items()]
        detail = f"largest difference {max(errors, default=0.0):.2g}, allowed {NORMAL_TOLERANCE:g}"
        good = all(error <= NORMAL_TOLERANCE for error in errors)
        return [Check(name="fresh_normals", passed=good, detail=detail)] if errors else []
    if manifest.form != "mask_bank" or bank.fixed:
        return []
    drawn = pack(draw_keep(bank, bank.members, bank.chunk))
    differing = [name for name, rows in drawn.items() if not np.array_equal(rows, golden[f"fresh.{name}"])]
    detail = f"other masks for {', '.join(differing)}" if differing else f"{bank.chunk} members equal to the bit"
    return [Check(name="fresh_masks", passed=not differing, detail=detail)]


def verify_engine(engine: Engine, manifest: Manifest, stored: Arrays, golden: Arrays) -> list[Check]:
    """Run the golden frames through all graphs of a bundle.

    Args:
        engine: An open engine on the bundle.
        manifest: The bundle's manifest.
        stored: The arrays of ``bank.safetensors``.
        golden: The arrays of ``golden.safetensors``.

    Returns:
        A check for the deterministic output, the members by the fused graph, the members by trunk and head, fresh
        members (mask banks) and the density by each of its graphs (where there is one); of a Gaussian head mean and
        covariance in place of members. One failed check if the engine fails.
    """
    gaussian = manifest.closed is not None
    try:
        if gaussian:
            outputs = _moments(engine, manifest, golden)
        else:
            outputs = _outputs(engine, manifest, Members(manifest.form, manifest.bank, stored), golden)
    except EngineError as error:
        return [Check(name="runs", engine=engine.name, passed=False, detail=str(error))]
    scales = moment_scales(manifest, golden) if gaussian else {}
    output_range = scales[f"fused.{MEAN_OUTPUT}"] if gaussian else float(np.ptp(golden["fused.members"])) or 1.0
    checks = []
    tolerance, density_tolerance = tolerances(manifest)
    for name, (key, actual) in outputs.items():
        expected, limits = golden[key], (scales.get(key, output_range), tolerance)
        scale, allowed = (np.abs(expected) + 1.0, density_tolerance) if key == DENSITY_OUTPUT else limits
        checks.append(_compare(engine.name, name, actual, expected, scale, allowed))
    return checks


def moment_scales(manifest: Manifest, moments: Arrays) -> dict[str, float]:
    """What differences of a Gaussian head's mean and covariance are held against.

    Args:
        manifest: The bundle's manifest.
        moments: Over some frames, by name in the goldens.

    Returns:
        By the same names: the range of the outputs within a standard deviation, and the largest variance.
    """
    mean, spread = (np.asarray(moments[f"fused.{spec.name}"], np.float64) for spec in manifest.outputs[:2])
    variance = spread if spread.ndim == mean.ndim else np.diagonal(spread, axis1=-2, axis2=-1)
    deviation = np.sqrt(np.maximum(variance, 0.0))
    output_range = float((mean + deviation).max() - (mean - deviation).min())
    largest = float(variance.max())
    return {f"fused.{MEAN_OUTPUT}": output_range or 1.0, f"fused.{manifest.outputs[1].name}": largest or 1.0}


def _moments(engine: Engine, manifest: Manifest, golden: Arrays) -> dict[str, tuple[str, Any]]:
    """As `_outputs`, of a Gaussian head."""
    found: dict[str, tuple[str, list[Any]]] = {}
    for index in range(len(golden["det.output"])):
        frame = {spec.name: golden[f"input.{spec.name}"][index] for spec in manifest.inputs}
        whole, first = engine.graph("fused").run(frame), engine.graph("trunk").run(frame)
        head = engine.graph("head").run({spec.name: first[spec.name] for spec in manifest.boundary})
        row = {"deterministic": ("det.output", engine.graph("det").run(frame).get(DETERMINISTIC_OUTPUT))}
        for spec in manifest.outputs[:2]:
            name = spec.name.removeprefix("output_")
            row[name] = (f"fused.{spec.name}", whole.get(spec.name))
            row[f"split_{name}"] = (f"fused.{spec.name}", head.get(spec.name))
        if manifest.has_density:
            row["density"] = (DENSITY_OUTPUT, whole.get(DENSITY_OUTPUT))
            row["split_density"] = (DENSITY_OUTPUT, first.get(DENSITY_OUTPUT))
        for name, (key, actual) in row.items():
            found.setdefault(name, (key, []))[1].append(actual)
    return found


def _outputs(engine: Engine, manifest: Manifest, members: Members, golden: Arrays) -> dict[str, tuple[str, Any]]:
    """By name of the check: the golden array that is expected, and what the engine gave, frame by frame."""
    bank = manifest.bank
    det, fused = engine.graph("det"), engine.graph("fused")
    trunk, heads = engine.graph("trunk"), [engine.graph(name) for name in bank.heads]
    all_held = fused.hold(members.take(0, bank.members))
    starts = [*range(0, bank.members, bank.chunk)]
    if bank.built_in:
        chunks = [(head, head.hold({})) for head in heads]
    else:
        chunks = [(heads[0], heads[0].hold(members.take(start, bank.chunk))) for start in starts]
    drawn = manifest.form == "mask_bank" and not bank.fixed
    fresh = heads[0].hold(members.take(bank.members, bank.chunk)) if drawn else None

    found: dict[str, tuple[str, list[Any]]] = {}
    for index in range(len(golden["det.output"])):
        frame = {spec.name: golden[f"input.{spec.name}"][index] for spec in manifest.inputs}
        whole, first = fused.run(frame, all_held), trunk.run(frame)
        boundary = {spec.name: first[spec.name] for spec in manifest.boundary if spec.name in first}
        parts = [head.run(boundary, held).get(MEMBERS_OUTPUT) for head, held in chunks]
        row: dict[str, tuple[str, Any]] = {
            "deterministic": ("det.output", det.run(frame).get(DETERMINISTIC_OUTPUT)),
            "members": ("fused.members", whole.get(MEMBERS_OUTPUT)),
            "split_members": ("fused.members", _joined(parts, bank.members)),
        }
        if fresh is not None:
            row["fresh_members"] = ("fresh.members", heads[0].run(boundary, fresh).get(MEMBERS_OUTPUT))
        if manifest.has_density:
            row["density"] = ("density", whole.get(DENSITY_OUTPUT))
            row["split_density"] = ("density", first.get(DENSITY_OUTPUT))
        for name, (key, actual) in row.items():
            found.setdefault(name, (key, []))[1].append(actual)
    return found


def _joined(parts: list[NDArray[Any] | None], count: int) -> NDArray[Any] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present)[:count] if len(present) == len(parts) else None


def _compare(
    engine: str, name: str, actual: list[Any], expected: NDArray[Any], scale: NDArray[Any] | float, allowed: float
) -> Check:
    shapes = {None if frame is None else frame.shape for frame in actual}
    if shapes != {expected.shape[1:]}:
        got = ", ".join("no output" if shape is None else str(list(shape)) for shape in shapes)
        detail = f"expected shape {list(expected.shape[1:])}, got {got}"
        return Check(name=name, engine=engine, passed=False, detail=detail)
    error = np.abs(np.stack(actual).astype(np.float64) - expected) / scale
    largest = float(error.max())
    of = "its size" if name.endswith("density") else "the output's range"
    # Written so that NaN fails.
    passed = bool(largest <= allowed)
    detail = f"largest difference {largest:.2g} of {of}, allowed {allowed:g}"
    return Check(name=name, engine=engine, passed=passed, detail=detail)
