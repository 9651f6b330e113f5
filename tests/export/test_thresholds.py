"""Thresholds by replay and by quantile."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_bdl.errors import InputError
from edge_bdl.manifest import Bank, StochasticInput
from edge_bdl.policy import Evidence, Level, Policy
from edge_bdl.policy_spec import PolicyConfig, PolicySpec
from edge_bdl_export.thresholds import ThresholdFit, calibrated_counts, fit_thresholds, replay

PERIOD_S = 0.05
FRAMES = 600  # of an episode: 30 s
Table = dict[str, dict[int, NDArray[np.float64]]]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def episode(generator: np.random.Generator, frames: int = FRAMES) -> dict[str, NDArray[np.float64]]:
    """Nominal driving as it was measured: a tiny correlated score, and recoveries that are a hundred times larger."""
    noise = generator.normal(size=frames)
    for i in range(1, frames):
        noise[i] = 0.9 * noise[i - 1] + math.sqrt(1.0 - 0.81) * noise[i]
    recovering = np.zeros(frames)
    for start in np.flatnonzero(generator.random(frames) < 0.004):
        recovering[start : start + 12] = generator.uniform(0.3, 1.0)
    return {
        "epistemic": 0.0003 * np.exp(0.8 * noise) + 0.03 * recovering * generator.uniform(0.5, 1.5, frames),
        "density": 0.6 * np.exp(0.4 * noise) + 12.0 * recovering,
    }


def driving(generator: np.random.Generator, episodes: int) -> tuple[Table, NDArray[np.int64]]:
    drives = [episode(generator) for _ in range(episodes)]
    table: Table = {}
    for name in ("epistemic", "density"):
        values = np.concatenate([drive[name] for drive in drives])
        # Fewer samples make a noisier epistemic score.
        spread = {2: generator.gamma(1.0, 1.0, len(values)), 16: np.ones(len(values))}
        table[name] = {samples: values * (spread[samples] if name == "epistemic" else 1.0) for samples in (2, 16)}
    return table, np.repeat(np.arange(episodes), FRAMES)


def replayed(policy: PolicySpec, table: Table, index: NDArray[Any], samples: int) -> tuple[float, set[Level]]:
    """Share of frames after the start that were not NOMINAL, and the levels seen; apart from the fit's own replay."""
    restrained, total, levels = 0, 0, set()
    for which in np.unique(index):
        machine = Policy(policy)
        seen = []
        for tick, row in enumerate(np.flatnonzero(index == which)):
            scores = {name: float(by_samples[samples][row]) for name, by_samples in table.items()}
            seen.append(machine.step(tick * PERIOD_S, Evidence(scores, samples)).level)
        levels.update(seen)
        restrained += sum(level is not Level.NOMINAL for level in seen[4:])
        total += len(seen) - 4
    return restrained / total, levels


@pytest.fixture(scope="module")
def nominal() -> tuple[Table, NDArray[np.int64]]:
    return driving(rng(1), 12)


@pytest.fixture(scope="module")
def fit(nominal: tuple[Table, NDArray[np.int64]]) -> ThresholdFit:
    table, index = nominal
    return fit_thresholds(table, frame_period_s=PERIOD_S, episodes=index, reductions={"density": "mean"})


# --- thresholds from episodes


@pytest.mark.parametrize("samples", [2, 16])
def test_replayed_nominal_driving_is_held_back_no_more_than_the_target_and_never_handed_over(
    fit: ThresholdFit, nominal: tuple[Table, NDArray[np.int64]], samples: int
) -> None:
    share, levels = replayed(fit.policy, *nominal, samples)
    assert share == pytest.approx(fit.held_back_share[samples])
    assert share <= 0.01
    assert levels <= {Level.HOLD, Level.NOMINAL, Level.SLOW}


@pytest.mark.parametrize("samples", [2, 16])
def test_thresholds_are_as_tight_as_the_target_allows(
    fit: ThresholdFit, nominal: tuple[Table, NDArray[np.int64]], samples: int
) -> None:
    """One more frame over every SLOW threshold is too much."""
    table, index = nominal
    tighter = []
    for score in fit.policy.scores:
        falling = np.sort(table[score.name][samples])[::-1]
        slow = float(falling[np.flatnonzero(falling == score.thresholds[samples].slow)[-1] + 1])
        one = {samples: type(score.thresholds[samples])(slow=slow, handoff=score.thresholds[samples].handoff)}
        tighter.append(type(score)(name=score.name, thresholds=one))
    share, levels = replayed(PolicySpec(scores=tuple(tighter)), table, index, samples)
    assert share > 0.01 or Level.HANDOFF in levels


def test_handoff_is_the_margin_above_the_highest_nominal_score(
    fit: ThresholdFit, nominal: tuple[Table, NDArray[np.int64]]
) -> None:
    for score in fit.policy.scores:
        for samples, limits in score.thresholds.items():
            values = nominal[0][score.name][samples]
            median = np.median(values)
            assert limits.handoff == pytest.approx(median + 2.0 * (values.max() - median))
            assert limits.slow < values.max() < limits.handoff


def test_thresholds_are_kept_by_driving_they_were_not_fitted_on(fit: ThresholdFit) -> None:
    table, index = driving(rng(2), 12)
    share, levels = replayed(fit.policy, table, index, 16)
    assert share < 0.03
    assert Level.HANDOFF not in levels


@pytest.mark.parametrize(("density", "expected"), [(0.6, Level.NOMINAL), (15.0, Level.SLOW), (120.0, Level.HANDOFF)])
def test_hazards_are_caught_within_three_frames(fit: ThresholdFit, density: float, expected: Level) -> None:
    """Clear, the density of a hard recovery that does not end, and fog as it was measured (120 where clear is 0.6)."""
    policy = Policy(fit.policy)
    levels = []
    for tick in range(53):
        scores = {"epistemic": 0.0003, "density": 0.6 if tick < 50 else density}
        levels.append(policy.step(tick * PERIOD_S, Evidence(scores, 16)).level)
    assert levels[49] is Level.NOMINAL
    assert levels[52] is expected


def test_the_manifest_says_what_the_thresholds_come_from(fit: ThresholdFit) -> None:
    assert fit.policy.source == "episode_replay"
    assert {score.name: score.reduction for score in fit.policy.scores} == {"epistemic": "max", "density": "mean"}
    assert all(set(score.thresholds) == {2, 16} for score in fit.policy.scores)
    # 360 s without an event: below 3.0 / 360 per second at 95 %.
    assert fit.warnings[0].startswith("thresholds rest on 12 nominal episodes, 360 s: ")
    assert "fewer than one per 120 s at 95% confidence" in fit.warnings[0]


def test_fitting_is_deterministic(fit: ThresholdFit, nominal: tuple[Table, NDArray[np.int64]]) -> None:
    table, index = nominal
    assert fit_thresholds(table, frame_period_s=PERIOD_S, episodes=index, reductions={"density": "mean"}) == fit


def test_a_wider_target_gives_tighter_thresholds(fit: ThresholdFit, nominal: tuple[Table, NDArray[np.int64]]) -> None:
    table, index = nominal
    wider = fit_thresholds(table, frame_period_s=PERIOD_S, episodes=index, held_back_target=0.1)
    for before, after in zip(fit.policy.scores, wider.policy.scores, strict=True):
        assert after.thresholds[16].slow < before.thresholds[16].slow
        assert after.thresholds[16].handoff == before.thresholds[16].handoff


def test_thresholds_follow_the_unit_of_a_score(nominal: tuple[Table, NDArray[np.int64]], fit: ThresholdFit) -> None:
    table, index = nominal
    shifted = {name: {s: 8.0 * values - 2.0 for s, values in by_s.items()} for name, by_s in table.items()}
    moved = fit_thresholds(shifted, frame_period_s=PERIOD_S, episodes=index)
    for before, after in zip(fit.policy.scores, moved.policy.scores, strict=True):
        for samples in (2, 16):
            assert after.thresholds[samples].slow == pytest.approx(8.0 * before.thresholds[samples].slow - 2.0)
            assert after.thresholds[samples].handoff == pytest.approx(8.0 * before.thresholds[samples].handoff - 2.0)


def test_debouncing_is_used_isolated_spikes_cost_no_width() -> None:
    """Every tenth frame is high: a frame quantile would sit among the spikes, the replay goes below them."""
    generator = rng(4)
    values = generator.uniform(0.0, 1.0, 1200)
    values[::10] += 10.0
    table = {"epistemic": {2: values}}
    index = np.repeat(np.arange(2), 600)
    by_replay = fit_thresholds(table, frame_period_s=PERIOD_S, episodes=index).policy.scores[0].thresholds[2]
    by_quantile = fit_thresholds(table, frame_period_s=PERIOD_S).policy.scores[0].thresholds[2]
    assert by_replay.slow < 1.0 < 10.0 < by_quantile.slow


def test_a_stretch_that_would_spend_the_slow_budget_widens_the_thresholds() -> None:
    """5 s in 400 s are well within the target as a share, but SLOW for 3 s hands over, and nominal driving must not."""
    values = rng(5).uniform(0.0, 1.0, 8000)
    values[4000:4100] = rng(6).uniform(2.0, 3.0, 100)
    fit = fit_thresholds({"total": {2: values}}, frame_period_s=PERIOD_S, episodes=np.zeros(8000), held_back_target=0.1)
    _, levels = replayed(fit.policy, {"total": {2: values}}, np.zeros(8000), 2)
    assert Level.HANDOFF not in levels
    assert fit.policy.scores[0].thresholds[2].slow > 2.0


def test_a_policy_that_never_starts_is_not_taken_for_one_that_never_slows() -> None:
    """All but a few frames the same low number: SLOW thresholds below it would keep the robot in HOLD for ever."""
    values = rng(5).uniform(1.0, 1.1, 1200)
    fit = fit_thresholds({"total": {2: values}}, frame_period_s=PERIOD_S, episodes=np.repeat([0, 1], 600))
    share, levels = replayed(fit.policy, {"total": {2: values}}, np.repeat([0, 1], 600), 2)
    assert share <= 0.01
    assert Level.NOMINAL in levels


def test_an_episode_unlike_all_others_is_reported(nominal: tuple[Table, NDArray[np.int64]]) -> None:
    table, index = nominal
    odd = {name: {s: values.copy() for s, values in by_s.items()} for name, by_s in table.items()}
    odd["density"][16][index == 3] *= 100.0
    warnings = fit_thresholds(odd, frame_period_s=PERIOD_S, episodes=index).warnings
    assert any(
        "1 of 12 episodes go over the HANDOFF threshold" in text and "density (S=16)" in text for text in warnings
    )


def test_too_little_driving_to_know_the_target_is_reported() -> None:
    table, index = driving(rng(6), 1)
    warnings = fit_thresholds(table, frame_period_s=PERIOD_S, episodes=index, held_back_target=0.01).warnings
    assert any("a single SLOW of 1 s is already more than 1.0%" in text for text in warnings)


@pytest.mark.parametrize(("period_s", "timeout_s"), [(0.05, 0.3), (0.15, 0.3), (0.18, 0.36), (0.2, 0.4)])
def test_slow_cameras_get_a_longer_timeout(period_s: float, timeout_s: float) -> None:
    table, index = driving(rng(7), 1)
    fit = fit_thresholds(table, frame_period_s=period_s, episodes=index)
    assert fit.policy.config.assessment_timeout_s == pytest.approx(timeout_s)


@pytest.mark.parametrize("period_s", [0.25, 0.0, -1.0, math.nan, math.inf])
def test_cameras_that_are_too_slow_are_refused(period_s: float) -> None:
    with pytest.raises(InputError, match="at least 5 frames per second"):
        fit_thresholds({"total": {2: rng().random(99)}}, frame_period_s=period_s)


def test_a_given_policy_must_suit_the_camera() -> None:
    with pytest.raises(InputError, match=r"late after 0\.3 s"):
        fit_thresholds({"total": {2: rng().random(99)}}, frame_period_s=0.18, config=PolicyConfig())


# --- thresholds from frames


def test_without_episodes_thresholds_are_quantiles_and_say_so() -> None:
    values = rng(8).permutation(np.arange(10_000, dtype=np.float64))
    fit = fit_thresholds({"density": {2: values}}, frame_period_s=PERIOD_S)
    limits = fit.policy.scores[0].thresholds[2]
    assert fit.policy.source == "frame_quantiles"
    assert fit.held_back_share == {}
    assert limits.slow == 9899.0
    assert limits.handoff == pytest.approx(4999.5 + 2.0 * (9989.0 - 4999.5))
    assert len(fit.warnings) == 1


def test_too_few_frames_for_a_quantile_are_reported_and_never_extrapolated() -> None:
    values = np.arange(100, dtype=np.float64)
    fit = fit_thresholds({"density": {2: values}}, frame_period_s=PERIOD_S)
    assert fit.policy.scores[0].thresholds[2].slow == 98.0
    assert any(
        "100 frames cannot know the 0.99 quantile behind the SLOW thresholds (299 can)" in w for w in fit.warnings
    )
    assert any("0.999 quantile behind the HANDOFF thresholds (2995 can)" in w for w in fit.warnings)


# --- bad input


def broken(value: float) -> NDArray[np.float64]:
    values = rng().random(50)
    values[7] = value
    return values


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no scores"),
        ({"total": {}}, "no scores|sample counts"),
        ({"total": {2: broken(math.nan)}}, r"total \(S=2\): 1 of 50 scores are not finite"),
        ({"total": {2: broken(math.inf)}}, "not finite"),
        ({"total": {2: np.arange(9.0)}}, r"at least 10 frames, got \(9,\)"),
        ({"total": {2: np.ones((20, 2))}}, r"\[n\] scores"),
        ({"total": {2: np.full(50, 0.5)}}, "0.5 on every frame"),
        ({"total": {2: np.arange(20.0)}, "density": {4: np.arange(20.0)}}, "same sample counts"),
        ({"total": {2: np.arange(20.0), 4: np.arange(21.0)}}, "one number per frame"),
        ({"total": {2: np.arange(20.0)}, "density": {2: np.arange(21.0)}}, "one number per frame"),
    ],
)
def test_scores_that_cannot_be_fitted_are_named(scores: Table, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_thresholds(scores, frame_period_s=PERIOD_S)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (np.zeros(19), "one episode for each of 20 frames"),
        (np.zeros((20, 1)), "one episode for each of 20 frames"),
        (np.repeat([0, 1], [15, 5]), "an episode of 5 frames is over"),
    ],
)
def test_episodes_that_cannot_be_replayed_are_refused(episodes: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_thresholds({"total": {2: np.arange(20.0)}}, frame_period_s=PERIOD_S, episodes=episodes)


@pytest.mark.parametrize(
    "options",
    [{"held_back_target": 0.0}, {"held_back_target": 1.0}, {"handoff_margin": 0.9}, {"handoff_margin": math.nan}],
)
def test_targets_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="held_back_target is in"):
        fit_thresholds({"total": {2: np.arange(20.0)}}, frame_period_s=PERIOD_S, **options)


# --- sample counts


@pytest.mark.parametrize(
    ("members", "chunk", "counts"),
    [(16, 4, (2, 4, 8, 12, 16)), (16, 1, tuple(range(2, 17))), (10, 4, (2, 4, 8, 10)), (2, 2, (2,)), (5, 3, (2, 3, 5))],
)
def test_calibrated_counts_are_two_whole_chunks_and_the_bank(members: int, chunk: int, counts: tuple[int, ...]) -> None:
    mask = StochasticInput(name="mask_0", source="drop", kind="Dropout", shape=(4,), rate=0.5, scale=2.0)
    bank = Bank(members=members, chunk=chunk, selection="iid", seed=0, inputs=(mask,))
    assert calibrated_counts(bank) == counts


# --- on other episodes


def test_a_replay_on_other_episodes_agrees_with_one_by_hand(fit: ThresholdFit) -> None:
    table, index = driving(rng(5), 6)
    shares, handed_over = replay(fit.policy, table, index, PERIOD_S)
    for samples in (2, 16):
        share, levels = replayed(fit.policy, table, index, samples)
        assert shares[samples] == pytest.approx(share)
        assert (handed_over[samples] > 0) == bool(levels & {Level.HANDOFF, Level.STOP})


def test_a_replay_counts_the_episodes_that_were_handed_over(fit: ThresholdFit) -> None:
    table, index = driving(rng(6), 3)
    for values in table["density"].values():
        values[FRAMES : FRAMES + 50] = 1e6  # all of the second episode's beginning
        values[2 * FRAMES + 100] = 1e6
    shares, handed_over = replay(fit.policy, table, index, PERIOD_S)
    assert set(handed_over.values()) == {1}, "before it has driven nobody need be asked"
    # What follows a handover that nobody answers is held back too.
    for samples in (2, 16):
        assert shares[samples] == pytest.approx(replayed(fit.policy, table, index, samples)[0])
