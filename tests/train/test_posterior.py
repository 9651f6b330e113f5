"""What holds for every method's posterior: same seed same members, plain names, files, and nothing else touched."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.checkpoint import CheckpointError, Origin
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import METHODS, open_method, open_posterior, swag
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.posterior_file import load_posterior, read_posterior_info, save_posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior

SGD = Optimiser(kind="sgd", learning_rate=0.1)
SWAG = swag.Config(start_epoch=1, optimiser=SGD)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "concrete_dropout": {},
    "dropout": {"prior": GaussianPrior(scale=1.0)},
    "ensemble": {"members": 4},
    "laplace": {},
    "masksembles": {"layers": ["4"]},
    "mean_field": {"prior": GaussianPrior(scale=1.0)},
    "multi_swag": {"swag": SWAG, "members": 2},
    "point": {},
    "sgmcmc": {"prior": GaussianPrior(scale=1.0), "learning_rate": 0.1},
    "swag": {"start_epoch": 1, "optimiser": SGD},
    "vbll": {},
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(48, 4, generator=seeded(1))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def fitted(method: str, start: nn.Module | None = None) -> Posterior:
    module = open_method(method)
    trainee = module.build(
        start or network(), Categorical(3), module.Config(**ARGUMENTS[method]), n_data=48, generator=seeded(2)
    )
    return fit(trainee, data(), epochs=4, batch_size=16, generator=seeded(3))


@pytest.fixture(scope="module", params=sorted(METHODS))
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return fitted(request.param)


def test_every_method_has_arguments_here_and_a_class_of_its_kind() -> None:
    assert ARGUMENTS.keys() == METHODS.keys()
    assert all(open_posterior(name).kind == name for name in METHODS)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no method 'hope': expected one of concrete_dropout, dropout"):
        open_method("hope")


def test_the_same_seed_gives_the_same_posterior_and_members(posterior: Posterior) -> None:
    again = fitted(posterior.kind)
    for first, second in zip(posterior.sample(seeded(5), 3), again.sample(seeded(5), 3), strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    x, _ = data()
    assert torch.equal(posterior.predict(x, 3, seeded(6)), again.predict(x, 3, seeded(6)))


def test_members_differ_and_are_finite(posterior: Posterior) -> None:
    first, second = posterior.sample(seeded(5), 2)
    assert all(tensor.isfinite().all() for tensor in first.values())
    assert any(not torch.equal(first[name], second[name]) for name in first) == (posterior.kind != "point")


def test_members_are_parameters_of_the_network_or_masks_of_its_dropout(posterior: Posterior) -> None:
    parts = posterior.network.state_dict()
    for member in (*posterior.sample(seeded(5), 2), posterior.mean()):
        if posterior.kind in ("dropout", "concrete_dropout"):
            assert {name: tensor.shape for name, tensor in member.items()} == {"3#0": (1, 8)}
        else:
            assert all(tensor.shape == parts[name].shape for name, tensor in member.items())
            assert all(tensor.dtype == parts[name].dtype for name, tensor in member.items())


def test_a_prediction_is_every_member_on_the_whole_batch(posterior: Posterior) -> None:
    x, _ = data()
    outputs = posterior.predict(x, 3, seeded(6))
    assert outputs.shape == (3, 48, 3)
    assert not outputs.requires_grad
    for output, member in zip(outputs, posterior.sample(seeded(6), 3), strict=True):
        # Row by row: the same function for each of them.
        rows = torch.cat([posterior.run(row, member) for row in x.split(1)])
        assert torch.allclose(output, rows, atol=1e-5)


def test_no_member_and_more_than_there_are_are_refused(posterior: Posterior) -> None:
    with pytest.raises(InputError, match="at least 1 member, got n=0"):
        posterior.sample(seeded(0), 0)
    # There is one point, as often as it is asked for.
    if posterior.size is not None and posterior.kind != "point":
        with pytest.raises(InputError, match=f"has {posterior.size} members"):
            posterior.predict(data()[0], posterior.size + 1, seeded(0))


def test_fitting_and_predicting_leave_the_users_network_and_the_global_generator_alone(posterior: Posterior) -> None:
    start = network()
    before = copy.deepcopy(start.state_dict())
    state = torch.random.get_rng_state()
    fitted(posterior.kind, start).predict(data()[0], 2, seeded(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())
    assert start.training
    assert all(parameter.requires_grad for parameter in start.parameters())


def test_a_copy_predicts_the_same(posterior: Posterior) -> None:
    x, _ = data()
    assert torch.equal(copy.deepcopy(posterior).predict(x, 2, seeded(1)), posterior.predict(x, 2, seeded(1)))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "posterior.safetensors"


def test_a_posterior_comes_back_from_its_file(posterior: Posterior, path: Path) -> None:
    save_posterior(path, posterior)
    save_posterior(path, posterior)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    loaded = load_posterior(path, network())
    assert type(loaded) is type(posterior)
    assert loaded.settings == posterior.settings
    x, _ = data()
    assert torch.equal(loaded.predict(x, 3, seeded(1)), posterior.predict(x, 3, seeded(1)))
    for name, tensor in posterior.mean().items():
        assert torch.equal(loaded.mean()[name], tensor)


def test_a_file_says_what_it_is(posterior: Posterior, path: Path) -> None:
    save_posterior(path, posterior)
    info = read_posterior_info(path)
    assert (info.kind, info.network) == (posterior.kind, "Sequential")
    assert info.shapes["4.weight"] == (3, 8)
    assert info.origin is None
    assert info.settings == json.loads(json.dumps(posterior.settings))


def test_a_file_may_say_how_its_network_is_built(path: Path) -> None:
    origin = Origin(recipe="toy", arguments={"hidden": [8], "rate": None}, seed=3)
    save_posterior(path, fitted("point"), origin=origin)
    assert read_posterior_info(path).origin == origin
    assert load_posterior(path, network()).kind == "point"


def test_another_networks_posterior_is_refused_by_name(posterior: Posterior, path: Path) -> None:
    save_posterior(path, posterior)
    with pytest.raises(CheckpointError, match=r"differs from this Linear in .*4\.weight"):
        load_posterior(path, nn.Linear(4, 3))


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **changes: object) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["edge_bdl_posterior"])
        if tensors is None:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, path, {"edge_bdl_posterior": json.dumps({**header, **changes})})


def test_each_missing_strange_misshapen_or_infinite_tensor_is_refused_by_name(posterior: Posterior, path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in posterior.state_dict().items()}
    for name, tensor in state.items():
        for changed, message in (
            ({key: value for key, value in state.items() if key != name}, "is missing"),
            ({**state, f"{name}.x": torch.zeros(1)}, "is not known"),
            ({**state, name: torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)}, ""),
            ({**state, name: torch.full(tensor.shape, torch.nan).to(torch.float16)}, ""),
        ):
            save_posterior(path, posterior)
            rewrite(path, changed)
            # An ensemble's file with one member's worth of another length is no whole one either.
            with pytest.raises(CheckpointError, match=f"whole posterior of kind '{posterior.kind}'.*{message}"):
                load_posterior(path, network())


def test_values_that_are_not_finite_are_not_written(posterior: Posterior, path: Path) -> None:
    save_posterior(path, posterior)
    before = path.read_bytes()
    broken = copy.deepcopy(posterior)
    next(broken.network.parameters()).data.fill_(float("inf"))
    if broken.kind in ("multi_swag",):
        broken.components[0].network = broken.network
    with pytest.raises(CheckpointError, match="not finite in"):
        save_posterior(path, broken)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "hope"}, "kind 'hope', expected one of"),
        ({"kind": "ensemble"}, "whole posterior of kind 'ensemble'"),
        ({"kind": "laplace"}, "whole posterior of kind 'laplace'"),
        ({"kind": "masksembles"}, "whole posterior of kind 'masksembles'"),
        ({"kind": "multi_swag"}, "whole posterior of kind 'multi_swag'"),
        ({"format_version": 2}, "format version 2, expected 1"),
        ({"surprise": 1}, "header .* cannot be read"),
        ({"settings": 3}, "header .* cannot be read"),
        ({"origin": {"recipe": "toy"}}, "header .* cannot be read"),
    ],
)
def test_a_header_that_says_something_else_is_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    save_posterior(path, fitted("point"))
    rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_posterior(path, network())


def test_foreign_files_and_places_that_are_none_are_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no posterior"):
        load_posterior(path, network())
    path.write_bytes(b"dear diary")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_posterior(path, network())
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no edge-bdl posterior"):
        load_posterior(path, network())
    with pytest.raises(CheckpointError, match="choose a folder"):
        save_posterior(path.parent / "nowhere" / "x.safetensors", fitted("point"))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_gives_finite_members(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    save_posterior(path, LAPLACE)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        loaded = load_posterior(path, network())
    except CheckpointError:
        return
    assert all(tensor.isfinite().all() for tensor in loaded.mean().values())


LAPLACE = fitted("laplace")
