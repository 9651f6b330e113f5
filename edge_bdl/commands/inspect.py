"""``edge-bdl inspect``: what a bundle is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_bdl.bundle import Bundle
from edge_bdl.commands.arguments import BundleParser, add_json, open_bundle
from edge_bdl.commands.output import columns, print_json
from edge_bdl.findings import Partial
from edge_bdl.manifest import Manifest, Precision, Propagation, TensorSpec


def inspect(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, or the bundle is not sound.
    """
    parser = BundleParser("inspect", "Say what a bundle is, after checking its files.")
    add_json(parser)
    options = parser.parse_args(argv)
    bundle = open_bundle(options)
    if options.json:
        print_json(_facts(bundle))
    else:
        print(_text(bundle))
    return 0


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "schema_version": manifest.schema_version,
        "form": manifest.form,
        "members": manifest.bank.members,
        "selection": manifest.bank.selection,
        "task": manifest.task,
        "inputs": manifest.inputs,
        "outputs": manifest.outputs,
        "deterministic_flops_share": manifest.flops.deterministic_share,
        "fidelity": manifest.fidelity,
        "precision": manifest.precision if isinstance(manifest.precision, Precision) else None,
        "partial": manifest.partial if isinstance(manifest.partial, Partial) else None,
        "files": manifest.files,
        "parity": manifest.parity,
    }


def _text(bundle: Bundle) -> str:
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    scores = ", ".join(
        f"{score.name} ({score.reduction}) at S = {', '.join(map(str, sorted(score.thresholds))) or 'none'}"
        for score in manifest.policy.scores
    )
    failed = [check for check in manifest.parity if not check.passed]
    facts = [
        ("digest", bundle.digest),
        ("task", manifest.task),
        ("members", _members(manifest)),
        ("inputs", "; ".join(map(_tensor, manifest.inputs))),
        ("outputs", "; ".join(map(_tensor, manifest.outputs))),
        ("engines", ", ".join(manifest.engines)),
        *_precision(manifest),
        ("shared work", f"{manifest.flops.deterministic_share:.1%} of {manifest.flops.total:,} multiply-accumulates"),
        *_partial(manifest),
        *_propagation(manifest),
        ("thresholds", f"{scores or 'none: a policy will hold'} ({manifest.policy.source or 'uncalibrated'})"),
        ("unseen frames", _figures(manifest)),
        ("proof", f"{len(manifest.parity) - len(failed)} of {len(manifest.parity)} checks passed at export"),
        ("size", f"{sum(entry.bytes for entry in manifest.files.values()):,} bytes in {len(manifest.files)} files"),
        ("made", f"{provenance.created_utc} from {provenance.model_class}"),
    ]
    lines = [manifest.name, columns(facts), *_fidelity(manifest)]
    lines += [f"  failed at export: {check.check} under {check.engine}" for check in failed]
    lines += [f"  warning: {warning}" for warning in manifest.warnings]
    return "\n".join(lines)


def _members(manifest: Manifest) -> str:
    bank, head = manifest.bank, manifest.closed
    if head is None:
        return f"{bank.members} {bank.selection}, {manifest.form}, head in chunks of {bank.chunk}"
    drawn = f"{bank.members} {bank.selection} draws of its outputs" if bank.inputs else "none, in closed form"
    if isinstance(head, Propagation):
        return f"{drawn}, {manifest.form} through the whole network"
    return f"{drawn}, {manifest.form} at {head.layer or 'the model itself'} with {head.covariance} covariance"


def _precision(manifest: Manifest) -> list[tuple[str, str]]:
    """In which numbers it is stored, where not in fp32."""
    stored = manifest.precision
    if not isinstance(stored, Precision):
        return []
    return [("precision", f"weights {stored.weights}, bank {stored.bank}, engines agree to {stored.tolerance:.2g}")]


def _partial(manifest: Manifest) -> list[tuple[str, str]]:
    """What it costs that only the end of the network is random."""
    cost = manifest.partial
    if not isinstance(cost, Partial):
        return []
    told = (
        f"from {cost.from_layer} on; scores rank as the whole posterior's to {cost.epistemic_spearman:.3f} and are "
        f"{cost.epistemic_ratio:.2f} of theirs, KL {cost.kl:.3g} nats, mean off by {cost.mean_error:.3g}"
    )
    return [("random", told)]


def _propagation(manifest: Manifest) -> list[tuple[str, str]]:
    """How close moments come to the posterior's members."""
    found = manifest.propagation
    if not isinstance(found, Propagation):
        return []
    told = (
        f"mean off by {found.mean_error:.2g} of a deviation, deviation {found.deviation_ratio:.2f} of the members', "
        f"scores rank as theirs to {found.epistemic_spearman:.3f} ({found.reference_members} members on {found.frames} "
        "frames)"
    )
    return [("moments", told)]


def _fidelity(manifest: Manifest) -> list[str]:
    """How close the first members of the bank come to the full posterior: for 2, 4, 8 ... and all of them."""
    rows = {row.samples: row for row in manifest.fidelity}
    shown = [rows[count] for count in sorted(rows) if count & (count - 1) == 0 or count == max(rows)]
    if not shown:
        return []
    heads = ["samples", "KL", "Spearman"]
    cells = [[str(row.samples), f"{row.kl:.3g}", f"{row.epistemic_spearman:.3f}"] for row in shown]
    for name, head in (
        ("seen_kl", "KL, selected on"),
        ("seen_epistemic_spearman", "Spearman, selected on"),
        ("auroc_lost", "AUROC lost"),
    ):
        values = [getattr(row, name) for row in shown]
        if all(isinstance(value, float) for value in values):
            heads.append(head)
            cells = [[*cell, f"{value:.3g}"] for cell, value in zip(cells, values, strict=True)]
    title = f"  fidelity to {shown[0].reference_members} members that stand for the full posterior"
    return [title, columns([heads, *cells], indent="    ")]


def _figures(manifest: Manifest) -> str:
    """What the whole bank did on frames that nothing was fitted on."""
    figures, samples = manifest.figures, manifest.bank.members
    if figures is None:
        return "none"
    parts = [f"{figures.frames} of them"]
    for name, by_samples in (("error", figures.error), ("90 % interval covers", figures.coverage)):
        if samples in by_samples:
            parts.append(f"{name} {by_samples[samples]:.3g}")
    if samples in figures.held_back:
        parts.append(f"held back on {figures.held_back[samples]:.1%}, {figures.handed_over[samples]} handed over")
    return ", ".join(parts)


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"
