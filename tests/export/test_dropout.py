"""Each torch dropout module as a mask: its shape, its arithmetic and its distribution, against torch's own module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export.dropout import KINDS, FixedMask, recognise

RATE = 0.3
CASES = [
    (nn.Dropout, (1, 40), (1, 40)),
    (nn.Dropout, (3, 5, 7), (3, 5, 7)),
    (nn.Dropout1d, (2, 9, 4), (2, 9, 1)),
    (nn.Dropout1d, (9, 4), (9, 1)),
    (nn.Dropout2d, (2, 9, 4, 3), (2, 9, 1, 1)),
    (nn.Dropout2d, (2, 9, 4), (2, 9, 1)),
    (nn.Dropout3d, (2, 9, 2, 3, 2), (2, 9, 1, 1, 1)),
    (nn.Dropout3d, (9, 2, 3, 2), (9, 1, 1, 1)),
    (nn.AlphaDropout, (2, 30), (2, 30)),
    (nn.FeatureAlphaDropout, (2, 9, 4, 3), (2, 9, 1, 1)),
    (nn.FeatureAlphaDropout, (2, 9, 4), (2, 9, 1)),
]
IDS = [f"{kind.__name__}-{len(shape)}axes" for kind, shape, _ in CASES]
# Torch announces that it will read three axes as an image one day; until then the masks follow what it does.
pytestmark = pytest.mark.filterwarnings("ignore:dropout2d:UserWarning")


def torch_mask(kind: type[nn.Module], shape: tuple[int, ...]) -> Tensor:
    """What torch keeps (True) for the seed that is set now: what it does to ones tells kept from dropped."""
    out = kind(RATE).train()(torch.ones(shape))
    return out > 0.5 if "Alpha" in kind.__name__ else out != 0.0


@pytest.mark.parametrize(("kind", "shape", "mask_shape"), CASES, ids=IDS)
def test_the_mask_has_the_shape_that_torch_draws(kind, shape, mask_shape):
    assert KINDS[kind].mask_shape(shape) == mask_shape
    torch.manual_seed(0)
    for _ in range(20):
        kept = torch_mask(kind, shape)
        first = kept[tuple(slice(0, extent) for extent in mask_shape)]
        assert torch.equal(kept, first.expand(shape))


@pytest.mark.parametrize(("kind", "shape", "mask_shape"), CASES, ids=IDS)
def test_the_same_mask_gives_the_module_s_own_output(kind, shape, mask_shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for seed in range(10):
        torch.manual_seed(seed)
        kept = torch_mask(kind, shape)[tuple(slice(0, extent) for extent in mask_shape)]
        torch.manual_seed(seed)
        expected = kind(RATE).train()(x)
        actual = KINDS[kind].apply(x, kept * KINDS[kind].scale(RATE), RATE)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "shape", "mask_shape"), CASES, ids=IDS)
def test_drawn_masks_have_the_moments_of_the_module(kind, shape, mask_shape):
    draws = 10_000
    torch.manual_seed(2)
    x = torch.randn(shape)
    module = kind(RATE).train()
    theirs = torch.stack([module(x) for _ in range(draws)]).double()
    keep = torch.rand(draws, *mask_shape) >= RATE
    ours = torch.stack([KINDS[kind].apply(x, mask * KINDS[kind].scale(RATE), RATE) for mask in keep]).double()
    variance = (ours.var(0) + theirs.var(0)) / 2.0
    mean_error = (2.0 * variance / draws).sqrt() + 1e-9
    assert ((ours.mean(0) - theirs.mean(0)).abs() / mean_error).max() < 5.5
    # A unit takes two values, so its fourth moment is known: kurtosis 1 / (p q) - 3.
    variance_error = variance * ((1.0 / (RATE * (1.0 - RATE)) - 4.0) * 2.0 / draws) ** 0.5 + 1e-9
    assert ((ours.var(0) - theirs.var(0)).abs() / variance_error).max() < 5.5


def test_scale_is_the_value_that_torch_multiplies_kept_units_with():
    for rate in (0.1, 0.2, 1 / 3, 0.5, 0.9):
        for kind in (nn.Dropout, nn.Dropout2d):
            out = kind(rate).train()(torch.ones(4, 64, 1, 1))
            assert set(out.unique().tolist()) <= {0.0, KINDS[kind].scale(rate)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_subclass_is_recognised_only_with_torch_s_own_forward(kind):
    class Renamed(kind):
        pass

    class Changed(kind):
        def forward(self, x: Tensor) -> Tensor:
            return x

    what = torch.ones(2, 1, 4) if kind is FixedMask else 0.5
    assert recognise(kind(what)) is kind
    assert recognise(Renamed(what)) is kind
    assert recognise(Changed(what)) is None
    assert recognise(nn.Linear(1, 1)) is None
