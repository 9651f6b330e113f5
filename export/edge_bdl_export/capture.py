"""Recognise: a model's stochastic call sites, found in the graph that torch.export captures; all else random refused.

Each recognised dropout module is replaced, in a copy of the model, by a marker operator that survives capture as one
graph node per call. What is random besides is looked for three times: in the train-mode and eval-mode graphs, operator
by operator; in the state of Python's and numpy's generators after a pass; and by comparing differently seeded passes
bit for bit.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves

from edge_bdl.errors import EdgeBdlError, ExportError, UnsupportedModelError
from edge_bdl_export.dropout import KINDS, DropoutKind, mask_shape, recognise
from edge_bdl_export.quiet import quiet

# Where people read how to write an adapter.
GUIDE = "docs/export.md, Models of other libraries"


@torch.library.custom_op("edge_bdl::call_site", mutates_args=())
def _call_site(x: Tensor, module: int) -> Tensor:
    """Marks one call of recognised module number ``module``; the identity until it is rewritten."""
    return x.clone()


@_call_site.register_fake
def _(x: Tensor, module: int) -> Tensor:
    return torch.empty_like(x)


class _Marker(nn.Module):
    def __init__(self, index: int, inplace: bool) -> None:
        super().__init__()
        self.index = index
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        marked = torch.ops.edge_bdl.call_site(x, self.index)
        # An in-place dropout is also seen by whoever else holds its input, a residual connection for one.
        return x.copy_(marked) if self.inplace else marked


@dataclass(frozen=True)
class Site:
    """One call of one dropout module.

    Attributes:
        node: The marker in the captured graph.
        module: Qualified name of the module.
        call: Which call of it in one forward pass, from 0.
        kind: The torch class it behaves as.
        rate: Drop probability.
        shape: Of one mask.
    """

    node: fx.Node
    module: str
    call: int
    kind: type[nn.Module]
    rate: float
    shape: tuple[int, ...]

    @property
    def arithmetic(self) -> DropoutKind:
        """What the module computes from input and mask."""
        return KINDS[self.kind]


@dataclass(frozen=True)
class Capture:
    """A model as one functional graph.

    Attributes:
        graph: The ATen graph; parameters and buffers are placeholders of it.
        state: Value of every parameter, buffer and constant, by placeholder.
        parameters: Qualified parameter or buffer name, by placeholder.
        inputs: Placeholders of the frame inputs.
        output: The node of the one output.
        sites: Dropout call sites, in graph order.
    """

    graph: fx.Graph
    state: Mapping[fx.Node, Tensor]
    parameters: Mapping[fx.Node, str]
    inputs: tuple[fx.Node, ...]
    output: fx.Node
    sites: tuple[Site, ...]


def capture(model: nn.Module, example: tuple[Tensor, ...], deterministic: Sequence[str] = ()) -> Capture:
    """Capture ``model`` with its dropout call sites marked.

    Args:
        model: Any network that torch.export captures. It is not changed.
        example: Its inputs, in the shapes and dtypes it will be shipped with.
        deterministic: Qualified names of modules to hold at eval, with everything below them.

    Raises:
        UnsupportedModelError: Something in it is random and not a recognised dropout module, or it cannot be captured,
            or its output is not one tensor.
        ExportError: ``deterministic`` names a module that does not exist, or a drop rate is 1.
    """
    _check_names(model, deterministic)
    marked, names, originals = _mark(model, deterministic)
    training = set_training(copy.deepcopy(marked), deterministic)
    _check_example(marked.eval(), example)
    program = _program(marked, example)
    for graph in (_program(training, example).graph_module, program.graph_module):
        _refuse_random_operations(graph)
    for mode in (training, marked):
        _refuse_random_passes(mode, example)
    with quiet():
        program = program.run_decompositions({})
    _refuse_branches(program.graph_module)
    return _read(program, names, originals)


def find_dropout(model: nn.Module, deterministic: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The recognised dropout modules with a rate above 0, by qualified name, outside ``deterministic``."""
    found = {}
    held = _held(model, deterministic)
    for name, module in model.named_modules():
        if recognise(module) is None or module in held:
            continue
        rate = float(module.p)  # type: ignore[arg-type]
        if rate >= 1.0:
            raise ExportError(f"{name} drops everything (p = {rate:g}); use a rate below 1 or remove the module")
        if rate > 0.0:
            found[name] = module
    return found


def set_training(model: nn.Module, deterministic: Sequence[str]) -> nn.Module:
    """Train mode, but normalisation layers keep their statistics and ``deterministic`` modules stay at eval."""
    model.train()
    held = _held(model, deterministic)
    for module in model.modules():
        if hasattr(module, "running_mean") or module in held:
            module.training = False
    return model


def _held(model: nn.Module, deterministic: Sequence[str]) -> set[nn.Module]:
    """The modules of these names and all below them, under whatever other name they are held as well."""
    return {module for name in deterministic for module in model.get_submodule(name).modules()}


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put each replacement wherever its module is held, also when it is held under several names."""
    # Not named_children(): it names a module that is held twice only once.
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(model, model)


def _check_example(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    try:
        _seeded_pass(model, example, seed=0)
    except EdgeBdlError:
        raise
    except Exception as error:  # whatever the model raises
        given = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in example) or "nothing"
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on the example input, {given} ({_first_line(error)}); give one of "
            "the shape and dtype that its forward takes"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_names(model: nn.Module, deterministic: Sequence[str]) -> None:
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for name in deterministic:
        if name not in known:
            raise ExportError(f"deterministic={name!r} is not a module of {type(model).__name__}; see named_modules()")


def _mark(model: nn.Module, deterministic: Sequence[str]) -> tuple[nn.Module, list[str], list[nn.Module]]:
    copied = copy.deepcopy(model).cpu()
    found = find_dropout(copied, deterministic)
    markers = {
        module: _Marker(index, bool(getattr(module, "inplace", False))) for index, module in enumerate(found.values())
    }
    return replace_modules(copied, markers), list(found), list(found.values())


def _program(model: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad(), plain_attention(), quiet():
            return torch.export.export(model, example, strict=False)
    except Exception as error:  # torch.export raises whatever the model or the tracer does
        _refuse_random_passes(model, example)
        first_line = _first_line(error)
        raise UnsupportedModelError(
            f"torch.export cannot capture {type(model).__name__} ({first_line}); replace data-dependent Python control "
            "flow by tensor operations"
        ) from error


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without torch's fast path for transformer layers at eval: it is opaque, and passes by the dropout in them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# --- hidden randomness ------------------------------------------------------------------------------------------------


def _refuse_random_operations(graph_module: fx.GraphModule) -> None:
    # Branches and loops are submodules.
    parts = [part for part in graph_module.modules() if isinstance(part, fx.GraphModule)]
    for node in (node for part in parts for node in part.graph.nodes):
        if node.op == "call_function" and (reason := _randomness(node)):
            raise UnsupportedModelError(
                f"{reason} in {_where(node)} is random but not a dropout module; use torch.nn.Dropout there, hold the "
                f"module at eval with deterministic=[its name], or write an adapter for it ({GUIDE})"
            )


def _randomness(node: fx.Node) -> str | None:
    """What is random about a node of the train-mode graph, or None."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target.name().removeprefix("aten::")
    arguments = _arguments(node, target)
    if name.startswith(("lstm", "gru", "rnn_tanh", "rnn_relu")):
        if arguments.get("train") and float(arguments.get("dropout", 0.0)) > 0.0:
            return f"dropout = {arguments['dropout']:g} between the layers of {name.partition('.')[0]}"
        return None
    if name.startswith("scaled_dot_product_attention"):
        rate = float(arguments.get("dropout_p", 0.0))
        return f"dropout_p = {rate:g} of attention" if rate > 0.0 else None
    if name.startswith("rrelu"):
        return "rrelu" if arguments.get("training") else None
    if "dropout" in name:
        switched_on = arguments.get("train", True)
        return name if switched_on and float(arguments.get("p", 1.0)) > 0.0 else None
    return name if torch.Tag.nondeterministic_seeded in target.tags else None


def _arguments(node: fx.Node, target: torch._ops.OpOverload) -> dict[str, Any]:
    schema = target._schema.arguments
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
    return {**values, **node.kwargs}


def _where(node: fx.Node) -> str:
    """The module path and the source line that made a node."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    module = stack[-1] if stack and stack[-1] else "the model's own forward"
    trace = (node.meta.get("stack_trace") or "").strip().splitlines()
    return f"{module} ({trace[-1].strip()})" if trace else module


def _refuse_random_passes(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Run the model twice and look for randomness that leaves no operator in a graph."""
    # One object, so that a generator it holds goes on; its buffers are put back, for those are state and not chance.
    model = copy.deepcopy(model)
    buffers = copy.deepcopy(dict(model.named_buffers()))
    passes = []
    for seed in (1, 2):
        passes.append(_seeded_pass(model, example, seed))
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if not isinstance(passes[0], Tensor):
        raise UnsupportedModelError(
            f"the model returns a {type(passes[0]).__name__}; a bundle has one output tensor: wrap the model in a "
            "module that returns one, for example torch.cat of its parts"
        )
    if not torch.equal(*(torch.nan_to_num(output) for output in passes)):
        raise UnsupportedModelError(
            f"two passes with all recognised dropout off differ, so something else in the model is random: "
            f"{_first_random(model, example)}; hold it at eval with deterministic=[module names], make it a torch.nn "
            f"dropout module, or write an adapter for it ({GUIDE})"
        )


def _first_random(model: nn.Module, example: tuple[Tensor, ...]) -> str:
    """The first module to be done with another output than in the pass before: those before it gave it the same."""
    model = copy.deepcopy(model)
    done: list[tuple[str, nn.Module, list[Any]]] = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, _, output, name=name: done.append((name, module, copy.deepcopy(tree_leaves(output))))
        )
    passes = []
    for seed in (1, 2):
        done.clear()
        _seeded_pass(model, example, seed)
        passes.append(list(done))
    for (name, module, first), (_, _, second) in zip(*passes, strict=False):
        if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(first, second, strict=False)):
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            return f"{name}, a {kind}" if name else f"the forward of {kind}"
    return "a part that is no module"


def _seeded_pass(model: nn.Module, example: tuple[Tensor, ...], seed: int) -> Any:
    # Model code may draw from any of these; all of them are put back.
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            seeded = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
            output = model(*(tensor.clone() for tensor in example))
            after = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
    for name, used in zip(("Python's random module", "numpy.random"), map(operator.ne, seeded, after), strict=True):
        if used:
            raise UnsupportedModelError(
                f"the forward pass draws from {name}, which no graph can hold; make it a torch.nn dropout module, or "
                "hold the module that does it at eval with deterministic=[its name]"
            )
    return output


# --- reading the captured graph ---------------------------------------------------------------------------------------


def _refuse_branches(graph_module: fx.GraphModule) -> None:
    """A branch or a loop is a graph of its own, in which neither sites nor a cut could be placed."""
    for node in graph_module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UnsupportedModelError(
                f"{node.target} in {_where(node)} is control flow, which a bundle's plain graphs do not have; compute "
                "both branches and choose with torch.where"
            )


def _read(program: torch.export.ExportedProgram, names: list[str], originals: list[nn.Module]) -> Capture:
    _elide_copies(program.graph)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    state: dict[fx.Node, Tensor] = {}
    parameters: dict[fx.Node, str] = {}
    inputs = []
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node)
            continue
        source = program.state_dict if spec.target in program.state_dict else program.constants
        state[node] = source[spec.target].detach()
        parameters[node] = spec.target
    return Capture(
        graph=program.graph,
        state=state,
        parameters=parameters,
        inputs=tuple(inputs),
        output=_only_output(program),
        sites=_sites(program.graph, names, originals),
    )


def _elide_copies(graph: fx.Graph) -> None:
    """What an in-place operation became: a copy that overwrites all of a tensor of the same kind is its source."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.copy.default:
            overwritten, source = (argument.meta["val"] for argument in node.args[:2])
            if overwritten.shape == source.shape and overwritten.dtype == source.dtype:
                node.replace_all_uses_with(node.args[1])


def _only_output(program: torch.export.ExportedProgram) -> fx.Node:
    # A functionalised graph also returns mutated buffers, before what the model returns.
    returned = [spec.arg.name for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    nodes = {node.name: node for node in program.graph.nodes}
    if len(returned) != 1 or returned[0] not in nodes:
        raise UnsupportedModelError(
            f"the model returns {len(returned)} values; a bundle has one output tensor: wrap the model in a module "
            "that returns one, for example torch.cat of its parts"
        )
    return nodes[returned[0]]


def _sites(graph: fx.Graph, names: list[str], originals: list[nn.Module]) -> tuple[Site, ...]:
    calls = [0] * len(names)
    sites = []
    for node in graph.nodes:
        if node.target is not torch.ops.edge_bdl.call_site.default:
            continue
        index = int(node.args[1])
        kind = recognise(originals[index])
        assert kind is not None
        sites.append(
            Site(
                node=node,
                module=names[index],
                call=calls[index],
                kind=kind,
                rate=float(originals[index].p),  # type: ignore[arg-type]
                shape=mask_shape(originals[index], tuple(node.meta["val"].shape)),
            )
        )
        calls[index] += 1
    return tuple(sites)
