"""Recurrent layers draw their weights once per sequence, and leave no draw behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_train.layers.recurrent import VariationalRecurrent
from edge_bdl_train.priors.gaussian import Gaussian


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(kind: type[nn.RNNBase]) -> VariationalRecurrent:
    layer = kind(2, 3).double()
    return VariationalRecurrent.from_deterministic(layer, Gaussian(), 0.5, generator=seeded(0))


def states(answer: tuple[Tensor, Tensor | tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    output, state = answer
    return (output, *(state if isinstance(state, tuple) else (state,)))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_all_time_steps_of_a_sequence_have_the_same_weights(kind: type[nn.RNNBase]) -> None:
    twin = made(kind)
    x = torch.randn(7, 2, 2, generator=seeded(1), dtype=torch.float64)
    output, *_ = states(twin(x))
    drawn = kind(2, 3).double()
    drawn.load_state_dict(twin.draw(seeded(0)))
    state = None
    for step in range(7):
        one, state = drawn(x[step : step + 1], state)
        torch.testing.assert_close(output[step : step + 1], one)


def test_a_draw_per_time_step_would_be_seen() -> None:
    twin = made(nn.GRU)
    x = torch.ones(2, 1, 2, dtype=torch.float64)
    whole, _ = twin(x)
    twin.generator = seeded(0)
    first, state = twin(x[:1])
    second, _ = twin(x[1:], state)
    torch.testing.assert_close(whole[:1], first)
    assert not torch.allclose(whole[1:], second)


def test_sequences_of_a_minibatch_share_the_draw() -> None:
    twin = made(nn.LSTM)
    output, _ = twin(torch.ones(4, 8, 2, dtype=torch.float64))
    torch.testing.assert_close(output, output[:, :1].expand_as(output))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_both_directions_are_drawn_on_their_own(kind: type[nn.RNNBase]) -> None:
    layer = kind(2, 3, bidirectional=True, num_layers=2)
    twin = VariationalRecurrent.from_deterministic(layer, Gaussian(), 0.5, generator=seeded(0))
    drawn = twin.draw(seeded(1))
    forwards = {name for name in drawn if not name.endswith("_reverse")}
    assert {f"{name}_reverse" for name in forwards} == drawn.keys() - forwards
    deviations = {name: drawn[name] - layer.get_parameter(name) for name in drawn}
    assert all(not torch.equal(deviations[name], deviations[f"{name}_reverse"]) for name in forwards)


def test_a_packed_sequence_and_an_initial_state_are_taken() -> None:
    layer = nn.LSTM(2, 3, batch_first=True)
    twin = VariationalRecurrent.from_deterministic(layer, Gaussian(), 0.5, generator=seeded(0))
    x = torch.randn(2, 5, 2, generator=seeded(1))
    packed = nn.utils.rnn.pack_padded_sequence(x, [5, 3], batch_first=True)
    start = (torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    output, _ = twin(packed, start)
    layer.load_state_dict(twin.draw(seeded(0)))
    torch.testing.assert_close(output.data, layer(packed, start)[0].data)


def test_no_draw_stays_behind() -> None:
    twin = made(nn.LSTM)
    twin(torch.ones(2, 1, 2, dtype=torch.float64))
    assert {tensor.device.type for tensor in twin._twin._flat_weights} == {"meta"}
