"""Every method on one small network for images, in two stages that save most of the training.

What can start from a point estimate does: a posterior is looked for around weights that are good already. Dropout,
Masksembles and the ensembles need networks of their own. But for the walks of SWAG and SGHMC, whose noise is what they
are about, every training lowers its learning rate to a hundredth: it then does not end at a chance moment of its noise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from edge_bdl_train.data.idx import CLASSES
from edge_bdl_train.fit import Data
from edge_bdl_train.kl_schedules import Constant
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import (
    concrete_dropout,
    dropout,
    ensemble,
    laplace,
    masksembles,
    mean_field,
    multi_swag,
    point,
    sgmcmc,
    swag,
    vbll,
)
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender
from edge_bdl_train.recipes.images import lenet

POINT = "point"
MOST_MEMBERS = 32
# LeNet's own widths (LeCun et al. 1998), which saw pictures of 32 x 32 pixels; dropout before each linear layer.
_CHANNELS, _HIDDEN, _PADDING = (6, 16), (120, 84), 2
_RATE = 0.3
_HEAD = ("7", "9", "11")  # the linear layers


@dataclass(frozen=True, kw_only=True)
class ImageContender(Contender):
    """A method on the network.

    Attributes:
        tunes: whether its training starts from the point estimate.
    """

    tunes: bool = False


def contenders(epochs: int, tuning: int, steps: int) -> list[ImageContender]:
    """Every method; the point estimate is the first, those with many networks are the last.

    Args:
        epochs: of a training from random weights.
        tuning: of one from the point estimate.
        steps: in an epoch.
    """
    prior = GaussianPrior(1.0)
    adam, tuner = annealed(epochs), annealed(tuning)
    walk = Optimiser(kind="sgd", learning_rate=0.01, momentum=0.9)
    # The prior of mean field is that of all its noise: N(0, 1) would drown the network. Even so 61,706 weights are
    # 1,300 nats an image away from it where there are 50; the factor is what held-out digits chose (recipe mnist).
    field = mean_field.Config(prior=GaussianPrior(0.1), sigma=0.02, kl_factor=Constant(0.03), optimiser=tuner)
    chain = sgmcmc.Config(
        prior=prior, learning_rate=0.01, every=max(1, tuning * steps // MOST_MEMBERS), most=MOST_MEMBERS
    )
    swags = swag.Config(start_epoch=epochs // 2, prior=prior, optimiser=walk)
    return [
        ImageContender(label=POINT, method="point", config=point.Config(prior=prior, optimiser=adam), epochs=epochs),
        ImageContender(
            label="dropout",
            method="dropout",
            config=dropout.Config(prior=prior, optimiser=adam),
            dropout=_RATE,
            epochs=epochs,
        ),
        ImageContender(
            label="concrete dropout",
            method="concrete_dropout",
            config=concrete_dropout.Config(optimiser=adam),
            dropout=_RATE,
            epochs=epochs,
        ),
        ImageContender(
            label="masksembles",
            method="masksembles",
            config=masksembles.Config(layers=_HEAD, members=4, prior=prior, optimiser=adam),
            epochs=epochs,
        ),
        ImageContender(label="mean field", method="mean_field", config=field, epochs=tuning, tunes=True),
        ImageContender(
            label="SWAG",
            method="swag",
            config=swag.Config(start_epoch=0, prior=prior, optimiser=walk),
            epochs=tuning,
            tunes=True,
        ),
        ImageContender(label="SGHMC", method="sgmcmc", config=chain, epochs=tuning, tunes=True),
        ImageContender(label="Laplace", method="laplace", config=laplace.Config(), epochs=0, tunes=True),
        ImageContender(
            label="VBLL", method="vbll", config=vbll.Config(prior=prior, optimiser=tuner), epochs=tuning, tunes=True
        ),
        ImageContender(
            label="ensemble of 5",
            method="ensemble",
            config=ensemble.Config(members=5, prior=prior, optimiser=adam),
            epochs=epochs,
        ),
        ImageContender(
            label="MultiSWAG of 3", method="multi_swag", config=multi_swag.Config(swag=swags, members=3), epochs=epochs
        ),
    ]


def annealed(epochs: int) -> Optimiser:
    """Adam whose learning rate falls to a hundredth."""
    return Optimiser(learning_rate=2e-3, decay=0.01 ** (1.0 / epochs))


def fitted(
    chosen: Sequence[ImageContender], data: Data, *, batch_size: int, seed: int, stage: Stage = silent
) -> Iterator[tuple[ImageContender, Posterior]]:
    """Each method's posterior, one after the other.

    Args:
        chosen: the first is the point estimate, where the others start that do.
        data: images [N, 1, 28, 28] and classes.
        batch_size: rows a step.
        seed: of weights, order and noise.
        stage: opens a progress bar.
    """
    start: nn.Module | None = None

    def build(each: ImageContender, rate: float) -> nn.Module:
        if each.tunes and start is not None:
            return copy.deepcopy(start)
        return lenet([rate] * len(_HEAD), _CHANNELS, _HIDDEN, _PADDING)

    for each in chosen:
        posterior = each.fit(
            partial(build, each),
            Categorical(CLASSES),
            data,
            batch_size=batch_size,
            seed=seed,
            stage=stage,
        )
        if each.label == POINT:
            start = copy.deepcopy(posterior.network).requires_grad_(True)
        yield each, posterior


def choose(labels: Sequence[str], known: Sequence[ImageContender]) -> list[ImageContender]:
    """The named methods and the point estimate, first; all of them for no names.

    Raises:
        InputError: a name is not known.
    """
    return [each for each in known if each.label in {POINT, *labels} or not labels]
