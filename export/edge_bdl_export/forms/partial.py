"""``partial``: a network that is random throughout, made cheap by putting everything before a chosen layer at its mean.

Dropout before the layer is off and weights before it are the posterior's mean, so that what was computed for every
member is computed once; from the layer on, members are what they were. That is another posterior, and what it costs is
measured against the whole one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edge_bdl.errors import ExportError
from edge_bdl.findings import Partial
from edge_bdl_export.banks import Stage, standing_for
from edge_bdl_export.capture import Capture, capture
from edge_bdl_export.cut import cut
from edge_bdl_export.draws import Draws, StateDict
from edge_bdl_export.fidelity import Reading, divergence, epistemic, rank_correlation
from edge_bdl_export.forms import mask_bank, weight_bank
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.frames import FIGURES, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.seen import Members, Seen
from edge_bdl_export.work import flops_of


@dataclass(frozen=True)
class Part:
    """A network of which only the end is random, and the whole one beside it.

    Attributes:
        layer: The first module that is random still.
        model: The network.
        captured: Its graph.
        members: State dicts of the weights that are random still.
        posterior: What is random still.
        whole: The whole network.
        all_members: Members that stand for the whole posterior, a block at a time.
        some_members: Members that stand for this one.
    """

    layer: str
    model: nn.Module
    captured: Capture
    members: Sequence[StateDict]
    posterior: Posterior
    whole: Network
    all_members: Callable[[], Iterable[Members]]
    some_members: Callable[[], Iterable[Members]]

    def cost(self, network: Network, frames: CalibrationFrames, reading: Reading) -> Partial:
        """What it costs, on frames that nothing was fitted on.

        Args:
            network: This one, cut.
            frames: All calibration frames.
            reading: How outputs are read.

        Raises:
            ExportError: The mean prediction is further from the whole posterior's than its members are.
        """
        work = flops_of(self.whole).total
        stage = Stage(self.whole, frames, reading, how="iid", chunk=1, seed=0, head_work=work)
        seen = Seen(network, frames.part(FIGURES).thinned(stage.limit), reading)
        return compare(self.layer, (stage.seen(FIGURES), self.all_members()), (seen, self.some_members()))


def from_layer(
    layer: str,
    model: nn.Module,
    example: tuple[Tensor, ...],
    captured: Capture,
    deterministic: Sequence[str],
    posterior: Posterior,
    draws: Draws | None,
    members: Sequence[StateDict],
    seed: int,
) -> Part:
    """Everything before a layer at its mean.

    Args:
        layer: The first module, in the order of a forward pass, that stays as random as it is.
        model: The whole network, at eval. It is not changed.
        example: Its inputs.
        captured: Its graph.
        deterministic: Modules held at eval already.
        posterior: All that is random in it.
        draws: Where its members come from; None where dropout is what is random.
        members: Those that were drawn.
        seed: Of masks.

    Raises:
        ExportError: There is no such layer, nothing random before it or from it on, or something is used on both sides;
            or the posterior is in closed form.
    """
    if posterior.closed is not None:
        raise ExportError(f"stochastic_from is for posteriors with members, a {posterior.form} is computed in one pass")
    names = [node.name for node in captured.inputs]
    whole = Network(cut(captured, posterior.stochastic), example, names, posterior.inputs)
    early = _before(layer, model, captured)
    if draws is None:
        held = (*deterministic, *_early_dropout(layer, captured, early))
        captured, late = capture(model, example, held), members
        part = mask_bank.posterior(model, captured, held)
    else:
        model, captured, late = _averaged(layer, model, captured, early, draws, members)
        part = weight_bank.posterior(model, captured, late)
    # Weights were drawn for the pool before; masks are other ones than the whole posterior's.
    some = (lambda: [part.weights]) if part.weights is not None else standing_for(part, None, (), seed + 1)
    return Part(layer, model, captured, late, part, whole, standing_for(posterior, draws, members, seed), some)


def _averaged(
    layer: str, model: nn.Module, captured: Capture, early: set[fx.Node], draws: Draws, members: Sequence[StateDict]
) -> tuple[nn.Module, Capture, Sequence[StateDict]]:
    names = _early_weights(layer, captured, early)
    late = [{name: value for name, value in member.items() if name not in names} for member in members]
    _check_both_sides(layer, before=_random(members, names), after=_random(late, late[0].keys()))
    mean = _mean(draws, members, names)
    model = copy.deepcopy(model)
    model.load_state_dict({**model.state_dict(), **mean})
    state = {node: mean.get(captured.parameters.get(node, ""), value) for node, value in captured.state.items()}
    return model, dataclasses.replace(captured, state=state), late


def _early_dropout(layer: str, captured: Capture, early: set[fx.Node]) -> list[str]:
    off = {site.module for site in captured.sites if site.node in early}
    on = {site.module for site in captured.sites if site.node not in early}
    _check_both_sides(layer, before=bool(off), after=bool(on))
    _refuse_shared(layer, on & off, "called")
    return sorted(off)


def _before(layer: str, model: nn.Module, captured: Capture) -> set[fx.Node]:
    """What is computed before a layer."""
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if layer not in known:
        raise ExportError(
            f"stochastic_from={layer!r} is not a module of {type(model).__name__}; it has {', '.join(known[:20])}"
            + (", ..." if len(known) > 20 else "")
        )
    before: set[fx.Node] = set()
    for node in captured.graph.nodes:
        if layer in (path for path, _ in (node.meta.get("nn_module_stack") or {}).values()):
            return before
        before.add(node)
    raise ExportError(f"stochastic_from={layer!r} computes nothing in a forward pass; name a layer that does")


def _early_weights(layer: str, captured: Capture, early: set[fx.Node]) -> set[str]:
    """Parameters and buffers that are used before a layer."""
    users = {name: [user in early for user in node.users] for node, name in captured.parameters.items()}
    _refuse_shared(layer, {name for name, sides in users.items() if any(sides) and not all(sides)}, "used")
    return {name for name, sides in users.items() if sides and all(sides)}


def _refuse_shared(layer: str, names: Iterable[str], done: str) -> None:
    for name in sorted(names):
        raise ExportError(
            f"stochastic_from={layer!r}: {name!r} is {done} before that layer and from it on, so it cannot be both at "
            "its mean and random; choose a layer before its first use"
        )


def _mean(draws: Draws, members: Sequence[StateDict], names: set[str]) -> dict[str, Tensor]:
    """The posterior's mean of some weights; of members alone, theirs."""
    known: Mapping[str, Tensor] = draws.mean or {}
    mean = {}
    for name in names.intersection(members[0]):
        values = [member[name] for member in members]
        same = all(value is values[0] for value in values) or not values[0].is_floating_point()
        average = values[0] if same else torch.stack(values).double().mean(0).to(values[0].dtype)
        mean[name] = known.get(name, average).detach().cpu()
    return mean


def _random(members: Sequence[StateDict], names: Iterable[str]) -> bool:
    return any(member[name] is not members[0][name] for name in names if name in members[0] for member in members)


def _check_both_sides(layer: str, *, before: bool, after: bool) -> None:
    if not before:
        raise ExportError(f"stochastic_from={layer!r}: nothing before it is random, so leave it out")
    if not after:
        raise ExportError(f"stochastic_from={layer!r}: nothing is random from it on; choose an earlier layer")


def compare(layer: str, whole: tuple[Seen, Iterable[Members]], part: tuple[Seen, Iterable[Members]]) -> Partial:
    """What a partial posterior costs.

    Args:
        layer: The first random one.
        whole: Frames behind the whole network's trunk, and members of it, a block at a time.
        part: The same frames behind the partial network's, and members of it.

    Raises:
        ExportError: The partial network's mean prediction is further from the whole one's than its members are.
    """
    seen, blocks = whole
    task = seen.reading.task
    total = square = torch.zeros(())
    count = 0
    for block in blocks:
        for stats in seen.each(block):
            total, square, count = total + stats, square + stats**2, count + 1
    reference, approximation = total / count, part[0].mean(part[1])
    predicted = slice(0, -1) if task == "classification" else slice(0, 1)
    spread = float((square / count - reference**2)[..., predicted].sum(-1).mean().clamp_min(0.0).sqrt())
    error = float(((reference - approximation)[..., predicted] ** 2).sum(-1).mean().sqrt())
    if error > spread:
        raise ExportError(
            f"with everything before {layer!r} at its mean, the mean prediction is off by {error:.3g}, and a single "
            f"member by {spread:.3g}: the average of these weights is no network (an ensemble's is not), or too "
            "much is averaged; choose an earlier layer, or export all of it without stochastic_from"
        )
    scores = [epistemic(stats, task) for stats in (reference, approximation)]
    return Partial(
        from_layer=layer,
        reference_members=count,
        kl=float(divergence(reference, approximation, task).mean()),
        epistemic_spearman=rank_correlation(*(score.flatten().numpy() for score in scores)),
        mean_error=error,
        epistemic_ratio=float(scores[1].mean() / scores[0].mean().clamp_min(1e-12)),
    )
