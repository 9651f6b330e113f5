"""Members: where they come from, bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.errors import InputError
from edge_bdl.manifest import Bank, StochasticInput
from edge_bdl.sampling import Members, Pace, draw_keep, draw_normal, masks, pack, unpack

WORD = 2**64 - 1


def mask_input(number: int, shape: tuple[int, ...], rate: float = 0.25) -> StochasticInput:
    return StochasticInput(
        name=f"mask_{number}", source=f"drop{number}", kind="Dropout", shape=shape, rate=rate, scale=1 / (1 - rate)
    )


def make_bank(*shapes: tuple[int, ...], rate: float = 0.25, members: int = 4, seed: int = 2**63 + 11) -> Bank:
    inputs = tuple(mask_input(number, shape, rate) for number, shape in enumerate(shapes))
    return Bank(members=members, chunk=2, selection="iid", seed=seed, inputs=inputs)


def philox4x64(counter: list[int], key: int, count: int) -> list[int]:
    """Philox4x64-10 of Salmon et al. 2011, written from the paper; like numpy's, it counts before it draws."""
    drawn: list[int] = []
    position = sum(word << (64 * place) for place, word in enumerate(counter))
    while len(drawn) < count:
        position += 1
        block = [(position >> (64 * place)) & WORD for place in range(4)]
        left, right = key & WORD, key >> 64
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * block[0], 0xCA5A826395121157 * block[2]
            block = [(second >> 64) ^ block[1] ^ left, second & WORD, (first >> 64) ^ block[3] ^ right, first & WORD]
            left, right = (left + 0x9E3779B97F4A7C15) & WORD, (right + 0xBB67AE8584CAA73B) & WORD
        drawn += block
    return drawn[:count]


def test_fresh_masks_are_the_published_generator_bit_for_bit() -> None:
    bank = make_bank((3, 5), (7,), rate=0.3)
    drawn = draw_keep(bank, 9, 2)
    for number, source in enumerate(bank.inputs):
        for row, member in enumerate((9, 10)):
            draws = philox4x64([0, 0, number, member], bank.seed, int(np.prod(source.shape)))
            expected = [draw >= round(0.3 * 2**64) for draw in draws]
            assert drawn[source.name][row].ravel().tolist() == expected


def test_a_member_does_not_depend_on_which_others_are_drawn_with_it() -> None:
    bank = make_bank((6, 6), (4,))
    together, alone = draw_keep(bank, 0, 8), draw_keep(bank, 5, 1)
    for name, rows in together.items():
        np.testing.assert_array_equal(rows[5:6], alone[name])


def test_members_and_inputs_have_different_masks() -> None:
    keep = draw_keep(make_bank((64,), (64,)), 0, 2)
    assert (keep["mask_0"][0] != keep["mask_0"][1]).any()
    assert (keep["mask_0"][0] != keep["mask_1"][0]).any()


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
def test_units_are_dropped_at_the_rate(rate: float) -> None:
    units = 100_000
    dropped = units - np.count_nonzero(draw_keep(make_bank((units,), rate=rate), 0, 1)["mask_0"])
    assert abs(dropped - rate * units) < 5 * np.sqrt(units * rate * (1 - rate))


def test_a_rate_of_zero_keeps_every_unit() -> None:
    assert draw_keep(make_bank((1000,), rate=0.0), 0, 1)["mask_0"].all()


def test_masks_are_float32_with_the_scale_where_kept() -> None:
    bank = make_bank((8,), rate=0.2)
    keep = {"mask_0": np.array([[True, False] * 4])}
    values = masks(bank, keep)["mask_0"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.float32([[1.25, 0.0] * 4]))


def test_packed_bits_start_at_the_most_significant() -> None:
    packed = pack({"mask_0": np.array([[True, False, False, False, False, False, False, True, True]])})
    assert packed["mask_0"].tolist() == [[0b1000_0001, 0b1000_0000]]


@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple),
    members=st.integers(2, 5),
    seed=st.integers(0, WORD),
)
def test_unpacking_gives_back_what_was_packed(shape: tuple[int, ...], members: int, seed: int) -> None:
    bank = make_bank(shape, rate=0.5, members=members, seed=seed)
    keep = draw_keep(bank, 0, members)
    np.testing.assert_array_equal(unpack(bank, pack(keep))["mask_0"], keep["mask_0"])
    assert keep["mask_0"].shape == (members, *shape)


def test_a_mask_bank_goes_on_with_fresh_members() -> None:
    bank = make_bank((3,), (2, 2))
    stored = draw_keep(bank, 100, bank.members)  # not the fresh ones of the same index: the bank may be selected
    taken = Members("mask_bank", bank, pack(stored)).take(2, 5)
    fresh = draw_keep(bank, 4, 3)
    for source in bank.inputs:
        keep = np.concatenate([stored[source.name][2:], fresh[source.name]])
        np.testing.assert_array_equal(taken[source.name], keep * np.float32(source.scale))
        assert taken[source.name].dtype == np.float32


def test_members_wholly_past_the_bank_are_all_fresh() -> None:
    bank = make_bank((16,))
    taken = Members("mask_bank", bank, pack(draw_keep(bank, 100, 4))).take(40, 2)
    np.testing.assert_array_equal(taken["mask_0"], masks(bank, draw_keep(bank, 40, 2))["mask_0"])


def weight_bank() -> tuple[Bank, Members]:
    source = StochasticInput(name="weight_0", source="head.weight", kind="parameter", shape=(2,))
    bank = Bank(members=3, chunk=2, selection="given", seed=0, inputs=(source,))
    return bank, Members("weight_bank", bank, {"weight_0": np.float32([[1, 2], [3, 4], [5, 6]])})


def test_a_weight_bank_is_padded_with_its_last_member() -> None:
    _, members = weight_bank()
    np.testing.assert_array_equal(members.take(2, 2)["weight_0"], np.float32([[5, 6], [5, 6]]))


def test_a_weight_bank_has_no_more_members_than_it_holds() -> None:
    _, members = weight_bank()
    members.check(3)
    with pytest.raises(InputError, match="holds 3 sets of weights and no more, asked for 4"):
        members.check(4)


def test_integers_are_multiplied_by_their_member_s_and_channel_s_scale() -> None:
    sources = tuple(
        StochasticInput(name=f"weight_{i}", source=f"w{i}", kind="parameter", shape=shape)
        for i, shape in enumerate([(2, 1, 2), (2,)])
    )
    bank = Bank(members=2, chunk=2, selection="given", seed=0, inputs=sources)
    stored = {
        "weight_0": np.int8([[[[1, -2]], [[127, 0]]], [[[3, 4]], [[-127, 5]]]]),
        "weight_0.scale": np.float32([[0.5, 2.0], [1.0, 0.25]]),
        "weight_1": np.float16([[1.5, 2.0], [3.0, 4.0]]),
    }
    members = Members("weight_bank", bank, stored)
    taken = members.take(0, 2)
    np.testing.assert_array_equal(
        taken["weight_0"], np.float32([[[[0.5, -1.0]], [[254.0, 0.0]]], [[[3.0, 4.0]], [[-31.75, 1.25]]]])
    )
    np.testing.assert_array_equal(taken["weight_1"], np.float32([[1.5, 2.0], [3.0, 4.0]]))
    assert {array.dtype for array in taken.values()} == {np.dtype(np.float32)}
    padded = members.take(1, 3)
    np.testing.assert_array_equal(padded["weight_0"], np.repeat(taken["weight_0"][1:], 3, axis=0))


@pytest.mark.parametrize("samples", [0, -1, 2.0, True, "4", None, float("nan")])
def test_samples_that_are_no_positive_whole_number_are_refused(samples: object) -> None:
    _, members = weight_bank()
    with pytest.raises(InputError, match="whole number of at least 1"):
        members.check(samples)  # type: ignore[arg-type]


def test_weights_are_those_of_the_prefix_and_equal_elsewhere() -> None:
    source = StochasticInput(name="weight_0", source="w", kind="parameter", shape=())
    bank = Bank(
        members=3, chunk=1, selection="selected", seed=0, inputs=(source,), member_weights={2: (0.75, 0.25000001)}
    )
    members = Members("weight_bank", bank, {"weight_0": np.zeros(3, np.float32)})
    np.testing.assert_allclose(members.weights(2), [0.75, 0.25], rtol=1e-7)
    assert members.weights(2).sum() == 1.0
    np.testing.assert_allclose(members.weights(3), [1 / 3] * 3)


def test_pace_expects_the_slowest_of_the_last_eight() -> None:
    pace = Pace()
    assert pace.estimate_s == 0.0
    pace.record(9.0)
    for _ in range(7):
        pace.record(1.0)
    assert pace.estimate_s == 9.0
    pace.record(2.0)
    assert pace.estimate_s == 2.0


def normal_bank(shape: tuple[int, ...] = (1, 5), seed: int = 11) -> Bank:
    source = StochasticInput(name="normal_0", source="last", kind="normal", shape=shape)
    return Bank(members=4, chunk=2, selection="iid", seed=seed, inputs=(source,))


@pytest.mark.parametrize("units", [1, 4, 5])
def test_fresh_normal_draws_are_box_and_muller_s_of_the_published_generator(units: int) -> None:
    bank, pairs = normal_bank((1, units)), -(-units // 2)
    (drawn,) = draw_normal(bank, 9, 2).values()
    assert drawn.dtype == np.float32
    for row, member in zip(drawn, (9, 10), strict=True):
        uniform = [(draw >> 11) * 2.0**-53 for draw in philox4x64([0, 0, 0, member], bank.seed, 2 * pairs)]
        polar = [
            (math.sqrt(-2.0 * math.log1p(-u)), 2.0 * math.pi * v)
            for u, v in zip(uniform[:pairs], uniform[pairs:], strict=True)
        ]
        expected = [r * math.cos(a) for r, a in polar] + [r * math.sin(a) for r, a in polar]
        np.testing.assert_allclose(row.ravel(), expected[:units], rtol=1e-6)


def test_normal_draws_are_standard_normal_and_independent() -> None:
    (drawn,) = draw_normal(normal_bank((1, 6)), 0, 20_000).values()
    rows = drawn.reshape(len(drawn), 6).astype(np.float64)
    for power, moment, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        z = ((rows**power).mean(0) - moment) / math.sqrt(variance / len(rows))
        assert np.abs(z).max() < 4.5
    correlation = np.corrcoef(np.concatenate([rows[1:], rows[:-1]], axis=1).T) - np.eye(12)
    assert np.abs(correlation).max() < 5.0 / math.sqrt(len(rows))


def test_a_gaussian_head_goes_on_with_fresh_draws_behind_its_bank_and_may_do_without_any() -> None:
    bank = normal_bank()
    stored = {"normal_0": np.ones((4, 1, 5), np.float32)}
    members = Members("gaussian_head", bank, stored)
    (taken,) = members.take(2, 5).values()
    np.testing.assert_array_equal(taken[:2], stored["normal_0"][2:])
    np.testing.assert_array_equal(taken[2:], draw_normal(bank, 4, 3)["normal_0"])
    for samples in (0, 1, 1000):
        members.check(samples)
    for samples in (-1, 1.0, True):
        with pytest.raises(InputError, match="at least 0"):
            members.check(samples)  # type: ignore[arg-type]
    closed = Members("gaussian_head", Bank(members=1, chunk=1, selection="closed_form", seed=0, inputs=()), {})
    closed.check(16)
    with pytest.raises(InputError, match="at least 1"):
        closed.check(0)
