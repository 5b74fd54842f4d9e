r"""A normalising flow: a base distribution and a bijection, and with them an exact density.

.. math:: \log p(x) = \log p_z(f(x)) + \log\left|\det \frac{\partial f}{\partial x}\right|
"""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from course_lib.affine_flows import AffineCoupling, MaskedAutoregressive
from course_lib.bijections import ActNorm, Bijection, Composition, Inverse, Permutation
from course_lib.checks import check_last_axis, check_log_det, check_whole
from course_lib.elementwise import ELU
from course_lib.networks import NormalNetwork, StandardNormal, mlp
from course_lib.planar import Planar

__all__ = [
    "Flow",
    "FlowDistribution",
    "FlowEncoder",
    "NegativeLogLikelihood",
    "autoregressive_layers",
    "coupling_layers",
    "planar_layers",
]


class FlowDistribution(Distribution):
    r"""The law of x where f(x) has the law of the base.

    Of its last sample it remembers the log-density, which falls out of drawing: a bound that draws z and asks
    for q(z | x) then pays for one map only, and never for an inverse. It belongs to one state of the
    parameters, as torch's distributions do: make a new one after a step of the optimiser.

    Args:
        base: event (D,); its batch shape is the batch shape of the flow.
        bijection: f, from x to the base.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: Distribution, bijection: Bijection) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.bijection = base, bijection
        # x, its version, log p(x), and whether gradients were recorded
        self.last_sample: tuple[Tensor, int, Tensor, bool] | None = None

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base has a reparametrised sampler."""
        return self.base.has_rsample

    def log_prob(self, value: Tensor) -> Tensor:
        r"""log p(x), x of shape (\*sample, \*batch, D), in nats; shape (\*sample, \*batch).

        Raises:
            FloatingPointError: the Jacobian is singular or not finite at an x.
        """
        if self.last_sample is not None and value is self.last_sample[0]:
            _, version, log_prob, recorded = self.last_sample
            if value._version == version and (recorded or not torch.is_grad_enabled()):
                return log_prob  # the sample was not written to since, and no gradient is missing
        z, log_det = self.bijection.forward_and_log_det(value)
        if not value.numel():  # of which torch's Independent cannot tell the shape
            return log_det
        check_log_det(log_det)
        return self.base.log_prob(z) + log_det

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        r"""g(z) with z from the base, gradients included; shape (\*sample, \*batch, D)."""
        z = self.base.rsample(torch.Size(sample_shape))
        x, log_det = self.bijection.inverse_and_log_det(z)
        check_log_det(log_det)
        if not x.is_inference():  # such a tensor does not count its versions
            log_prob = self.base.log_prob(z) - log_det
            self.last_sample = x, x._version, log_prob, torch.is_grad_enabled()
        return x

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        r"""g(z) with z from the base, without gradients."""
        return self.bijection.inverse_and_log_det(self.base.sample(torch.Size(sample_shape)))[0]


class Flow(nn.Module):
    r"""A density on vectors of D features: z = f(x) has the law of the base.

    Called without input it gives its distribution, so that a flow is also a prior: `VAE(prior=flow)`. As a
    latent-variable model it exists only when smoothed; see `course_lib.smoothed_flow`.

    Args:
        n_features: D.
        bijections: the layers of f, from the data to the base.
        base: network without input that gives a distribution, event (D,); None means N(0, I).
    """

    def __init__(
        self, n_features: int, bijections: Iterable[Bijection], base: nn.Module | None = None
    ) -> None:
        super().__init__()
        check_whole("n_features", n_features, 1)
        self.bijection = Composition(bijections)
        self.base = StandardNormal(n_features) if base is None else base
        self.n_features = n_features

    def forward(self) -> FlowDistribution:
        """The distribution of x, event (D,)."""
        return FlowDistribution(self.base(), self.bijection)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""log p(x) in nats: x of shape (\*batch, D), result (\*batch,).

        Raises:
            ValueError: x has another number of features, or holds integers.
            FloatingPointError: the Jacobian is singular or not finite at an x.
        """
        self._check(x)
        return self().log_prob(x)

    def sample(self, n_samples: int) -> Tensor:
        """Draws without gradients, shape (n_samples, D)."""
        check_whole("n_samples", n_samples, 1)
        return self().sample((n_samples,))

    def initialise(self, x: Tensor) -> "Flow":
        """Let the layers that can, as `ActNorm`, start from a batch of shape (N, D); returns the flow."""
        self._check(x)
        self.bijection.initialise(x)
        return self

    def _check(self, x: Tensor) -> None:
        check_last_axis("x", x, "n_features", self.n_features)
        if not x.is_floating_point():
            raise ValueError(f"x holds {x.dtype}, but a density is for real numbers: convert with .float()")


def coupling_layers(
    n_features: int, n_layers: int, hidden: Sequence[int], activation: type[nn.Module] = nn.SiLU
) -> list[Bijection]:
    """`n_layers` times `ActNorm` and `AffineCoupling`, the features reversed in between."""
    return _layers(n_features, n_layers, lambda: AffineCoupling(n_features, hidden, None, activation))


def autoregressive_layers(
    n_features: int, n_layers: int, hidden: Sequence[int], activation: type[nn.Module] = nn.SiLU
) -> list[Bijection]:
    """`n_layers` times `ActNorm` and `MaskedAutoregressive`, the features reversed in between."""
    return _layers(n_features, n_layers, lambda: MaskedAutoregressive(n_features, hidden, 0, activation))


def planar_layers(n_features: int, n_layers: int) -> list[Bijection]:
    """An `ActNorm`, then `n_layers` times `Planar`, which has no preferred direction to alternate."""
    check_whole("n_layers", n_layers, 1)
    return [ActNorm(n_features), *(Planar(n_features) for _ in range(n_layers))]


def _layers(n_features: int, n_layers: int, make: Callable[[], Bijection]) -> list[Bijection]:
    check_whole("n_layers", n_layers, 1)
    layers: list[Bijection] = [ActNorm(n_features), make()]
    for _ in range(n_layers - 1):
        layers += [Permutation.reversing(n_features), ActNorm(n_features), make()]
    return layers


class FlowEncoder(nn.Module):
    r"""A posterior that is a Gaussian, carried on by a bijection T that may depend on x.

    .. math:: z_0 \sim \mathcal N\bigl(\mu(x), \operatorname{diag} \sigma^2(x)\bigr), \qquad z = T(z_0; h(x))

    T is used in the direction of sampling. With a composition of `MaskedAutoregressive` layers this is the
    inverse autoregressive flow: one pass draws z and gives log q(z | x).

    Args:
        n_inputs: size D of x.
        hidden: widths of the hidden layers.
        n_latents: L.
        bijection: T, on vectors of L.
        n_context: size C of h(x), as the layers of T were made for; 0 where T does not depend on x.
        activation: module class applied after each hidden layer.

    Source:
        Rezende and Mohamed (2015); Kingma et al. (2016).
    """

    def __init__(
        self,
        n_inputs: int,
        hidden: Sequence[int],
        n_latents: int,
        bijection: Bijection,
        n_context: int = 0,
        activation: type[nn.Module] = ELU,
    ) -> None:
        super().__init__()
        check_whole("n_context", n_context, 0)
        width = [n_inputs, *hidden][-1]
        self.trunk = mlp(n_inputs, hidden, activation)
        self.normal = NormalNetwork(width, (), n_latents)
        self.context = nn.Linear(width, n_context) if n_context else None
        self.bijection = bijection

    def forward(self, inputs: Tensor) -> FlowDistribution:
        r"""x of shape (\*batch, D); a distribution of batch (\*batch,), event (L,)."""
        features = self.trunk(inputs)
        bijection = self.bijection
        if self.context is not None:
            bijection = bijection.given(self.context(features))
        return FlowDistribution(self.normal(features), Inverse(bijection))


class NegativeLogLikelihood(nn.Module):
    r"""The objective :math:`-\frac1B \sum_b \log p(x_b)` of a flow, in nats per example.

    Args:
        flow: the flow to train.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        """A batch of shape (B, D); the scalar to minimise."""
        return -self.flow.log_prob(x).mean()
