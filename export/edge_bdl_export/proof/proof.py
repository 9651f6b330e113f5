"""Run the whole proof over staged graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_bdl.engines import open_engine
from edge_bdl.errors import ProofError
from edge_bdl.findings import ParityCheck
from edge_bdl_export.proof import built_in, closed_form, equality, moments, plain
from edge_bdl_export.proof.subject import EngineSubject, Subject

# Passes of torch's own dropout, and of the graphs, per frame.
MOMENT_DRAWS = 1000


def prove(
    subject: Subject, folder: Path, engines: Sequence[str], seed: int, draws: int = MOMENT_DRAWS
) -> list[ParityCheck]:
    """Every check of the subject's form, on the graphs in ``folder``, under every engine at its default optimisation.

    Args:
        subject: What the graphs must equal.
        folder: Where the graphs are staged.
        engines: ``onnxruntime``, ``tflite``; ONNX is also held against onnx's own reference evaluator.
        seed: For torch's own draws.
        draws: Monte-Carlo passes per frame.

    Returns:
        All checks, passed or not, in a fixed order.
    """
    checks = plain.no_random_operations(folder, engines)
    if subject.manifest.form == "mask_bank" and not subject.manifest.bank.fixed:
        checks += moments.masks_are_dropout(subject)
    if subject.closed is not None and subject.closed.posterior is not None:
        checks.append(closed_form.members_have_these_moments(subject, draws, seed))
    proved = [EngineSubject(subject, open_engine(name, folder, subject.manifest)) for name in engines]
    for one in proved:
        checks += _under(one, seed, draws)
    for other in proved[1:]:
        closed = subject.closed is not None
        checks += closed_form.engines_agree(proved[0], other) if closed else [equality.engines_agree(proved[0], other)]
    if "onnxruntime" in engines:
        reference = EngineSubject(subject, open_engine("reference", folder, subject.manifest))
        if subject.closed is not None:
            checks += closed_form.reference_equals_golden(reference)
        else:
            checks.append(equality.reference_equals_golden(reference))
    return checks


def _under(proved: EngineSubject, seed: int, draws: int) -> list[ParityCheck]:
    if proved.subject.closed is not None:
        return closed_form.under(proved, seed)
    of_members = built_in if proved.subject.manifest.bank.built_in else equality
    checks = [
        equality.deterministic_equals_torch(proved),
        equality.members_equal_torch(proved),
        of_members.same_member_same_bits(proved),
        *of_members.members_differ(proved),
        equality.split_equals_fused(proved),
        *equality.density_equals_torch(proved),
    ]
    if proved.subject.sampler is not None:
        checks += moments.moments_equal_torch(proved, draws, seed)
    return checks


def insist(checks: Sequence[ParityCheck]) -> None:
    """Raise ProofError if any check failed, naming the worst."""
    failed = [check for check in checks if not check.passed]
    if failed:
        listed = "; ".join(f"{c.check} under {c.engine}: {c.value:.3g}, allowed {c.limit:.3g}" for c in failed[:4])
        more = f" and {len(failed) - 4} more" if len(failed) > 4 else ""
        raise ProofError(f"the exported graphs are not the trained model, nothing was written: {listed}{more}")
