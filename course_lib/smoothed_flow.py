r"""The flow as a latent-variable model: Dirac encoder and decoder, smoothed so that every density exists."""

import math

from torch import Tensor
from torch.distributions import Distribution, Independent

from course_lib.bijections import Inverse
from course_lib.checks import check_last_axis
from course_lib.distributions import diagonal_normal
from course_lib.flow import Flow, FlowDistribution
from course_lib.latent_variable_model import LatentVariableModel

__all__ = ["SmoothedFlow"]


class SmoothedFlow(LatentVariableModel):
    r"""A flow whose encoder sees a noisy x, and whose decoder allows for that noise.

    .. math::
        z = f(x + \sigma \eta), \quad \eta \sim \mathcal N(0, I), \qquad
        p(x \mid z) = \mathcal N\bigl(g(z), \sigma^2 I\bigr), \qquad p(z) \text{ the base}

    By the change of variables,

    .. math::
        q(z \mid x) = \mathcal N\bigl(g(z); x, \sigma^2 I\bigr)
        \left|\det \frac{\partial g}{\partial z}\right|, \qquad
        \frac{p(x \mid z)}{q(z \mid x)} = \left|\det \frac{\partial f}{\partial x}(x + \sigma\eta)\right|

    identically, and every log-weight is log p(x + ση) of the flow. The evidence lower bound is therefore the
    average of the flow's log-density in a neighbourhood of x, and tends to the flow's log p(x) as σ → 0. It
    bounds this model's own evidence, log E[p(x + ση)], not the flow's log p(x), which it may exceed.

    Args:
        flow: the flow.
        noise_std: σ > 0.
    """

    def __init__(self, flow: Flow, noise_std: float) -> None:
        super().__init__()
        if not 0 < noise_std < math.inf:
            raise ValueError(f"noise_std must be > 0 and finite, got {noise_std}: at 0 no density exists")
        self.flow, self.noise_std = flow, float(noise_std)

    def prior(self) -> Distribution:
        """The flow's base, event (D,)."""
        return self.flow.base()

    def likelihood(self, z: Tensor) -> Independent:
        """N(g(z), σ² I), event (D,)."""
        return self._noisy(self.flow.bijection.inverse_and_log_det(z)[0])

    def posterior(self, x: Tensor) -> FlowDistribution:
        """The law of f(x + ση), event (D,)."""
        check_last_axis("x", x, "n_features", self.flow.n_features)
        return FlowDistribution(self._noisy(x), Inverse(self.flow.bijection))

    def _noisy(self, x: Tensor) -> Independent:
        return diagonal_normal(x, x.new_tensor(self.noise_std))
