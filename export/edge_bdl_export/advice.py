"""Advice: what a person should know of a bundle, as the manifest's warnings."""

from __future__ import annotations

from collections.abc import Sequence

from edge_bdl.findings import Flops
from edge_bdl.manifest import Bank, Selection
from edge_bdl_export.choose import Chosen
from edge_bdl_export.draws import POOL, StateDict
from edge_bdl_export.forms.gaussian_head import Diagonal
from edge_bdl_export.forms.moments.head import MomentHead
from edge_bdl_export.frames import CalibrationFrames
from edge_bdl_export.given import Given
from edge_bdl_export.graphs import Network
from edge_bdl_export.member_axis import MemberAxis
from edge_bdl_export.work import work

_SHALLOW_TRUNK = 0.5
# Of one pass: more than this for a covariance is worth a word.
_DEAR = 0.01


def advice(
    network: Network, flops: Flops, frames: CalibrationFrames | None, asked: Selection, chosen: Chosen
) -> tuple[str, ...]:
    """One sentence each."""
    warnings = []
    closed = not isinstance(network.head, MemberAxis)
    if isinstance(network.head, MomentHead | Diagonal):
        pass  # no covariance could cost less
    elif closed:
        extra = work(network.head, network.boundary) - (flops.total - flops.deterministic)
        if extra > _DEAR * flops.total:
            warnings.append(
                f"the covariance costs {extra:,} multiply-accumulates, {extra / flops.total:.1%} of the network's, and "
                "slow ones, for each reads a number of its own: fit the posterior with covariance='diagonal' to have "
                "it for almost nothing"
            )
    elif flops.deterministic_share < _SHALLOW_TRUNK:
        remedy = (
            "with stochastic_from=... only the last layers are random"
            if network.built_in
            else "keep what is random to the last layers, or put the earlier ones to their mean with stochastic_from"
        )
        warnings.append(
            f"only {flops.deterministic_share:.0%} of the computation is shared between members, so S members cost "
            f"almost S passes: {remedy}"
        )
    if not closed and not network.axis.batched:
        operator = network.parts.unbanked or "an operator"
        warnings.append(f"the head runs once per member: {operator} in it has no good form for all members at once")
    if asked == "selected" and chosen.bank.selection == "balanced":
        warnings.append("selection found no members closer to the full posterior than balanced ones: the bank is those")
    if frames is None:
        warnings.append("without calibration frames there are no thresholds, and a policy will hold the robot")
    return tuple(warnings)


def advice_on_members(given: Given, pool: Sequence[StateDict], bank: Bank) -> tuple[str, ...]:
    """One sentence for each thing to know of where weights come from."""
    warnings = []
    draws = given.draws
    if draws is not None and draws.size is not None and len(pool) < draws.size:
        warnings.append(f"of {draws.size} members only the first {len(pool)} were looked at: more take too much memory")
    elif draws is not None and draws.size is not None and bank.selection == "given" and bank.members < draws.size:
        warnings.append(
            f"the bank holds the first {bank.members} of {draws.size} members: ask for samples={draws.size} to have "
            "all of them, or for selection='selected' to have the best"
        )
    elif bank.selection == "selected" and draws is not None and draws.size is None and len(pool) < POOL:
        warnings.append(f"members were selected among {len(pool)} and not {POOL}: more take too much memory")
    return (*warnings, *(given.adapter.notes if given.adapter else ()))
