"""Recipe ``explore``: who knows what it does not know, tries that. Thompson sampling against epsilon-greedy.

The bandit is synthetic (``data/bandit.py``): mushrooms to eat or to pass by, the rewards of Blundell et al. 2015, and
a rule for what is edible that is not linear. Passing by pays nothing and teaches nothing, so that who is once afraid
stays so.

Thompson sampling (Thompson 1933; with networks, Blundell et al. 2015, section 5.3) draws one member for each decision
and does what that member believes in: where the members disagree, it explores. Epsilon-greedy trusts one network and,
with probability epsilon, throws a die.

A network answers (context, action) with the expected reward. All policies have the same contexts and the same network,
and train equally long between two looks at the world; at first all throw the same dice. Regret is what the best action
would have paid more, in expectation; it is given as a share of that of choosing blindly, which is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data import bandit
from edge_bdl_train.data.bandit import ACTIONS
from edge_bdl_train.fit import Batches, Trainee
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import dropout, ensemble, laplace, mean_field, open_method, point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.progress import Advance, Stage, silent
from edge_bdl_train.recipes.base import seeded
from edge_bdl_train.recipes.fitting import mlp
from edge_bdl_train.recipes.study import Figure, Study
from edge_bdl_train.threads import one_thread

EPSILONS = (0.0, 0.01, 0.05, 0.1)
_ADAM = Optimiser(learning_rate=5e-3)
_UNIT = 10.0
"""Rewards in this unit are what the networks see."""
_NOISE = 0.5
"""Standard deviation that the networks are told the rewards have, in that unit. In truth it is 0 or 2; told 1,
mean-field inference passed nearly everything by for 800 decisions."""


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """What the study may vary.

    Attributes:
        rounds: decisions.
        every: decisions between two trainings.
        steps: of the optimiser in one training.
        batch_size: remembered rounds in a step.
        hidden: units of both hidden layers.
        policies: labels of those to run; all of them when empty.
    """

    rounds: int = 2_000
    every: int = 20
    steps: int = 25
    batch_size: int = 64
    hidden: int = 50
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.rounds, self.every, self.steps, self.batch_size, self.hidden) < 1:
            raise InputError(f"rounds, every, steps, batch_size and hidden must be at least 1, got {self}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How to decide.

    Attributes:
        label: what it is called in tables and plots.
        method: what makes the posterior; one member of it is drawn for each decision.
        config: that method's ``Config``.
        epsilon: share of the decisions that a die makes.
        dropout: rate of the network's dropout modules.
    """

    label: str
    method: str
    config: Any
    epsilon: float = 0.0
    dropout: float = 0.0


@dataclass
class Memory:
    """What was tried and what it paid.

    Attributes:
        x: contexts with their actions, float32 [N, 12 + 2].
        y: rewards in the networks' unit, float32 [N, 1].
    """

    x: Tensor = field(default_factory=lambda: torch.empty(0, bandit.FEATURES + ACTIONS))
    y: Tensor = field(default_factory=lambda: torch.empty(0, 1))

    def add(self, contexts: NDArray[np.int64], actions: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Remembers some rounds."""
        chosen = questions(contexts)[np.arange(len(actions)), actions]
        paid = torch.from_numpy(rewards / _UNIT).float()[:, None]
        self.x, self.y = torch.cat([self.x, chosen]), torch.cat([self.y, paid])


class ExploreStudy(Study):
    """Every policy on the same contexts."""

    name = "explore"
    config_type = ExploreConfig
    config: ExploreConfig

    @classmethod
    def quick_config(cls) -> ExploreConfig:
        """A few hundred decisions of two policies."""
        return ExploreConfig(rounds=100, steps=5, policies=("epsilon-greedy 0.1", "Thompson, mean field"))

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        contexts = bandit.mushrooms(self.config.rounds, np.random.default_rng(seed))
        means = bandit.means(contexts)
        blind = means.max(1) - means.mean(1)
        regrets = {"uniform": blind}
        for policy in self.policies():
            advance = stage(policy.label, self.config.rounds)
            actions = self.play(policy, contexts, seed, advance)
            regrets[policy.label] = means.max(1) - means[np.arange(len(actions)), actions]
        draw(out / "explore.png", regrets)
        return [
            figure
            for label, regret in regrets.items()
            if label != "uniform"
            for figure in _figures(label, regret, blind)
        ]

    def policies(self) -> list[Policy]:
        """Those to run.

        Raises:
            InputError: the config names none that there is.
        """
        chosen = [each for each in policies() if each.label in self.config.policies or not self.config.policies]
        if not chosen:
            known = ", ".join(each.label for each in policies())
            raise InputError(f"none of {self.config.policies} is a policy here: expected some of {known}")
        return chosen

    def play(
        self, policy: Policy, contexts: NDArray[np.int64], seed: int, advance: Advance = lambda: None
    ) -> NDArray[np.int64]:
        """The actions [N] that a policy chooses, one context after the other."""
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 1])
        trainee, memory, taken = self._trainee(policy, seed, generator), Memory(), []
        for start in range(0, len(contexts), self.config.every):
            block = contexts[start : start + self.config.every]
            # Nobody knows anything at first: all begin with the same throws of the die.
            actions = rng.integers(ACTIONS, size=len(block))
            if start:
                with one_thread():
                    self._train(trainee, memory, generator)
                    chosen = decide(trainee.posterior(Batches((memory.x, memory.y), len(memory.x))), block, generator)
                actions = np.where(rng.random(len(block)) < policy.epsilon, actions, chosen)
            memory.add(block, actions, bandit.rewards(block, actions, rng))
            taken.append(actions)
            for _ in block:
                advance()
        return np.concatenate(taken)

    def _trainee(self, policy: Policy, seed: int, generator: torch.Generator) -> Trainee:
        network: nn.Module = seeded(
            seed, lambda: mlp((bandit.FEATURES + ACTIONS, self.config.hidden, self.config.hidden, 1), policy.dropout)
        )
        method = open_method(policy.method)
        trainee: Trainee = method.build(network, Gaussian(_NOISE), policy.config, n_data=1, generator=generator)
        return trainee

    def _train(self, trainee: Trainee, memory: Memory, generator: torch.Generator) -> None:
        """So many steps on what is remembered; the prior counts once for all of it."""
        for part in trainee.parts:
            part.n_data = len(memory.x)  # type: ignore[attr-defined]
        for _ in range(self.config.steps):
            rows = torch.randint(len(memory.x), (self.config.batch_size,), generator=generator)
            trainee.step(memory.x[rows], memory.y[rows])


def policies() -> list[Policy]:
    """Epsilon-greedy with several epsilons, and Thompson sampling with several posteriors."""
    prior = GaussianPrior(1.0)
    greedy = [
        Policy(
            label=f"epsilon-greedy {epsilon:g}",
            method="point",
            config=point.Config(prior=prior, optimiser=_ADAM),
            epsilon=epsilon,
        )
        for epsilon in EPSILONS
    ]
    return [
        *greedy,
        Policy(
            label="Thompson, mean field", method="mean_field", config=mean_field.Config(prior=prior, optimiser=_ADAM)
        ),
        Policy(
            label="Thompson, Laplace",
            method="laplace",
            config=laplace.Config(prior=prior, prior_precision=1.0, optimiser=_ADAM),
        ),
        Policy(
            label="Thompson, ensemble",
            method="ensemble",
            config=ensemble.Config(members=5, prior=prior, optimiser=_ADAM),
        ),
        Policy(
            label="Thompson, dropout",
            method="dropout",
            config=dropout.Config(prior=prior, optimiser=_ADAM),
            dropout=0.1,
        ),
    ]


def questions(contexts: NDArray[np.int64]) -> Tensor:
    """Every context with every action, as the network takes them: float32 [N, 2, 12 + 2]."""
    count = len(contexts)
    seen = torch.from_numpy(bandit.features(contexts)).float()[:, None].expand(count, ACTIONS, bandit.FEATURES)
    return torch.cat([seen, torch.eye(ACTIONS).expand(count, ACTIONS, ACTIONS)], -1)


@torch.no_grad()
def decide(posterior: Posterior, contexts: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
    """For each context one new member's favourite, int64 [N]."""
    return np.array(
        [int(posterior.run(asked, posterior.sample(generator, 1)[0])[:, 0].argmax()) for asked in questions(contexts)],
        dtype=np.int64,
    )


def draw(path: Path, regrets: Mapping[str, NDArray[np.float64]]) -> None:
    """Cumulative regret of every policy."""
    canvas = Canvas(panel=(7.0, 4.5))
    (axes,) = canvas.axes
    for label, regret in regrets.items():
        axes.plot(np.cumsum(regret), ":" if label == "uniform" else "-", label=label)
    # Blind choice leaves the others at the bottom: its line may leave the picture.
    worst = max((float(regret.sum()) for label, regret in regrets.items() if label != "uniform"), default=1.0)
    axes.set(xlabel="decisions", ylabel="cumulative regret", ylim=(0.0, 1.1 * worst))
    axes.legend()
    canvas.save(path)


def _figures(label: str, regret: NDArray[np.float64], blind: NDArray[np.float64]) -> list[Figure]:
    """Over all rounds, and over the last quarter: the second says whether it has stopped learning the wrong thing."""
    last = -(len(regret) // 4 or 1)
    return [
        Figure(
            what=f"{label}: regret, % of uniform", values=(100.0 * float(regret.sum() / blind.sum()),), better="lower"
        ),
        Figure(
            what=f"{label}: regret in the last quarter, % of uniform",
            values=(100.0 * float(regret[last:].sum() / blind[last:].sum()),),
            better="lower",
        ),
    ]
