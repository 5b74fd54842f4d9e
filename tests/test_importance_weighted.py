"""Importance weighting against nested integrals, finite differences, closed-form variances and PPCA."""

import math

import pytest
import torch
from oracles import GaussianMixture, MixturePriorModel, OtherPosteriorPPCA, random_ppca, standard_errors
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform

from course_lib.bounds import NegativeElbo, NegativeIwaeBound, iwae_bound, log_importance_weights
from course_lib.distributions import diagonal_normal, log_mean_exp
from course_lib.gmvae import GMVAE
from course_lib.importance_weighted import (
    DoublyReparametrisedBound,
    active_units,
    doubly_reparametrised_bound,
    effective_sample_size,
    gradient_draws,
    signal_to_noise,
)
from course_lib.latent_variable_model import LatentVariableModel, draw_latents
from course_lib.ssvae import BernoulliSSVAE
from course_lib.vae import BernoulliVAE, GaussianVAE

pytestmark = pytest.mark.usefixtures("double_precision")


class FreeGaussian(MixturePriorModel):
    """The bimodal model with a free Gaussian as q: its mean is a parameter as it is, without an operation.

    Every row of x has its own copy of mean, log σ and of the likelihood's offset, so that one backward pass
    gives an independent gradient for each row.
    """

    def __init__(
        self, n: int, mean: float = 0.3, std: float = 0.9, through_a_transform: bool = False
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((n, 1), mean))
        self.log_std = nn.Parameter(torch.full((n, 1), math.log(std)))
        self.offset = nn.Parameter(torch.zeros(n, 1))
        self.through_a_transform = through_a_transform

    def likelihood(self, z):
        return diagonal_normal(2 * z + self.offset, torch.ones_like(z))

    def posterior(self, x):
        if self.through_a_transform:  # a flow of one affine step
            base = diagonal_normal(torch.zeros_like(self.mean), torch.ones_like(self.mean))
            return TransformedDistribution(base, [AffineTransform(self.mean, self.log_std.exp(), 1)])
        return diagonal_normal(self.mean, self.log_std.exp())


NOISE = torch.linspace(-8, 8, 161, dtype=torch.float64)
MASS = (-0.5 * NOISE**2).exp() / (-0.5 * NOISE**2).exp().sum()
X = 0.7


def exact_bound(parameters: torch.Tensor, n_samples: int) -> torch.Tensor:
    """E log(mean of n weights) over one, two or three nested integrals, at (mean, log σ, offset)."""
    mean, log_std, offset = parameters
    model = MixturePriorModel()
    z = (mean + log_std.exp() * NOISE).unsqueeze(-1)
    log_q = Normal(mean, log_std.exp()).log_prob(z.squeeze(-1))
    log_joint = model.prior().log_prob(z) + Normal(2 * z + offset, 1.0).log_prob(torch.tensor(X)).squeeze(-1)
    log_w = log_joint - log_q
    if n_samples == 1:
        return MASS @ log_w
    pairs = torch.logaddexp(log_w[:, None], log_w)
    if n_samples == 2:
        return MASS @ (pairs - math.log(2)) @ MASS
    triples = torch.logaddexp(pairs[:, :, None], log_w) - math.log(3)
    return torch.einsum("ijk,i,j,k->", triples, MASS, MASS, MASS)


@torch.no_grad()
def exact_gradient(n_samples: int) -> torch.Tensor:
    """Central differences of the exact bound."""
    here, step = torch.tensor([0.3, math.log(0.9), 0.0]), 1e-4
    steps = step * torch.eye(3)
    return torch.stack(
        [(exact_bound(here + d, n_samples) - exact_bound(here - d, n_samples)) / (2 * step) for d in steps]
    )


def draws_of(bound, n_samples, device, n=40_000, **options):
    """Independent gradients with respect to (mean, log σ, offset), shape (n, 3)."""
    model = FreeGaussian(n, **options).to(device)
    value = bound(model, torch.full((n, 1), X, device=device), n_samples).sum()
    gradients = torch.autograd.grad(value, (model.mean, model.log_std, model.offset))
    return torch.cat(gradients, 1).cpu()


# Wrong versions that people write.


def undetached(model, x, n_samples):
    log_weights = log_importance_weights(model, x, n_samples)
    return (log_weights.softmax(0) * log_weights).sum(0)


def hand_written(power_for_path, power_for_theta):
    """Σ w̃ᵖ log w with the path and the decoder's gradient weighted by chosen powers of w̃."""

    def bound(model, x, n_samples):
        q = model.posterior(x)
        z = draw_latents(q, n_samples)

        def log_weight_at(z, frozen):
            return model.likelihood(z).log_prob(x) + model.prior().log_prob(z) - frozen.log_prob(z)

        log_weights = log_weight_at(z, q)
        shares = log_weights.softmax(0).detach()
        leaf = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_weight_at(leaf, q).sum(), leaf, retain_graph=True)
        path = (slope * z).sum(-1)
        theta = model.likelihood(z.detach()).log_prob(x)
        return (shares**power_for_path * path + shares**power_for_theta * theta).sum(0)

    return bound


# The gradient.


@pytest.mark.parametrize("through_a_transform", [False, True])
@pytest.mark.parametrize("n_samples", [1, 2, 3])
@pytest.mark.parametrize("bound", [iwae_bound, doubly_reparametrised_bound])
def test_both_gradients_are_unbiased_for_the_exact_bounds(bound, n_samples, through_a_transform, device):
    draws = draws_of(bound, n_samples, device, through_a_transform=through_a_transform)
    assert standard_errors(draws, exact_gradient(n_samples)) < 4


@pytest.mark.parametrize(
    "wrong",
    [undetached, hand_written(1, 1), hand_written(2, 2), hand_written(3, 1)],
    ids=["undetached", "one share", "square everywhere", "cube"],
)
def test_wrong_gradients_miss_the_exact_one(wrong, device):
    assert standard_errors(draws_of(wrong, 3, device), exact_gradient(3)) > 4


def test_the_right_gradient_by_hand_is_the_library_s():
    torch.manual_seed(1)
    by_hand = draws_of(hand_written(2, 1), 5, "cpu", n=50)
    torch.manual_seed(1)
    by_library = draws_of(doubly_reparametrised_bound, 5, "cpu", n=50)
    torch.testing.assert_close(by_library, by_hand, rtol=1e-10, atol=1e-12)


def test_the_two_estimators_have_equal_means_on_a_network():
    model, x = GaussianVAE(4, 2, (5,)), torch.randn(3, 4)
    parameters = list(model.parameters())
    plain, doubly = (
        gradient_draws(objective(model, 4), x, parameters, 3000)
        for objective in (NegativeIwaeBound, DoublyReparametrisedBound)
    )
    assert standard_errors(plain - doubly, 0.0) < 4.7  # the largest of 70 entries
    once = gradient_draws(Objective(hand_written(1, 1), model, 4), x, parameters, 3000)
    assert standard_errors(plain - once, 0.0) > 10


class Objective(nn.Module):
    """The negative mean of any bound."""

    def __init__(self, bound, model, n_samples):
        super().__init__()
        self.bound, self.model, self.n_samples = bound, model, n_samples

    def forward(self, x):
        return -self.bound(self.model, x, self.n_samples).mean()


def test_at_the_exact_posterior_the_encoder_is_left_alone(device):
    """The gradient is that of log p(x) alone: for PPCA, θ on both sides, the mean of ∇ log p(x, z) over z."""
    ppca, x = random_ppca(device=device), torch.randn(3, 5, device=device)
    parameters = list(ppca.parameters())
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(-ppca.log_likelihood(x).mean(), parameters)])
    for n_samples in (1, 4):
        draws = gradient_draws(DoublyReparametrisedBound(ppca, n_samples), x, parameters, 4000)
        assert standard_errors(draws, truth) < 4
        assert standard_errors(draws, 1.1 * truth) > 4
    quiet = FreeEncoder(ppca).to(device)
    draws = gradient_draws(DoublyReparametrisedBound(quiet, 4), x, [quiet.shift, quiet.log_scale], 20)
    noisy = gradient_draws(NegativeIwaeBound(quiet, 4), x, [quiet.shift, quiet.log_scale], 20)
    assert draws.abs().max() < 1e-9
    assert noisy.abs().max() > 1e-2


class FreeEncoder(LatentVariableModel):
    """A PPCA whose posterior can be shifted and widened, and which starts at the exact one."""

    def __init__(self, ppca, shift=0.0, scale=1.0):
        super().__init__()
        self.ppca = ppca
        self.shift = nn.Parameter(torch.full((ppca.n_latents,), shift))
        self.log_scale = nn.Parameter(torch.full((ppca.n_latents,), math.log(scale)))

    def prior(self):
        return self.ppca.prior()

    def likelihood(self, z):
        return self.ppca.likelihood(z)

    def posterior(self, x):
        exact = self.ppca.posterior(x)
        tril = exact.scale_tril * self.log_scale.exp()
        mean = exact.mean + (exact.scale_tril @ self.shift.unsqueeze(-1)).squeeze(-1)
        return torch.distributions.MultivariateNormal(mean, scale_tril=tril, validate_args=False)


# The value, and every model of the course.


def models(device):
    """Name, model and a batch for it."""
    bits = (torch.rand(4, 6) < 0.5).double()
    labels = torch.tensor([0, 1, 2, 1])
    return [
        ("vae", BernoulliVAE(6, 2, (5,)), bits),
        ("gmvae", GMVAE(6, 2, 3, (5,)), bits),
        ("ppca", OtherPosteriorPPCA.like(random_ppca()), torch.randn(4, 5)),
        ("ssvae", BernoulliSSVAE(6, 3, 2, (5,)).given(labels), bits),
        ("every label", BernoulliSSVAE(6, 3, 2, (5,)).given_every_label(), bits),
    ]


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("n_samples", [1, 7])
def test_the_value_is_that_of_the_plain_bound_for_every_model(index, n_samples):
    name, model, x = models("cpu")[index]
    torch.manual_seed(2)
    plain = iwae_bound(model, x, n_samples)
    torch.manual_seed(2)
    doubly = doubly_reparametrised_bound(model, x, n_samples)
    torch.testing.assert_close(doubly, plain, rtol=0, atol=1e-10)
    assert plain.shape == ((3, 4) if name == "every label" else (4,))
    doubly.sum().backward()
    used = [p.grad for n, p in model.named_parameters() if p.requires_grad and "classifier" not in n]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in used)


def test_the_objectives_share_value_and_interface():
    model, x = GaussianVAE(4, 2, (5,)), torch.randn(3, 4)
    values = []
    for objective in (NegativeIwaeBound, DoublyReparametrisedBound):
        torch.manual_seed(3)
        values.append(objective(model, n_samples=6)(x))
    torch.testing.assert_close(values[0], values[1])
    torch.manual_seed(3)
    torch.testing.assert_close(values[0], -iwae_bound(model, x, 6).mean())
    assert issubclass(DoublyReparametrisedBound, NegativeIwaeBound)


def test_without_gradients_discrete_latents_have_a_value_too(device):
    model, x = GaussianMixture(exact=True).to(device), torch.randn(4, 2, device=device)
    with torch.no_grad():
        value = DoublyReparametrisedBound(model, 3)(x)
    torch.testing.assert_close(value, -model.log_joint(x).logsumexp(-1).mean())


def test_a_frozen_encoder_leaves_the_decoder_s_gradient_as_it_was():
    model, x = GaussianVAE(4, 2, (5,)), torch.randn(3, 4)
    decoder = list(model.decoder.parameters())
    gradients = []
    for frozen in (False, True):
        model.encoder.requires_grad_(not frozen)
        torch.manual_seed(4)
        gradients.append(torch.autograd.grad(DoublyReparametrisedBound(model, 5)(x), decoder))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_objective_compiles(device):
    plain = DoublyReparametrisedBound(GaussianVAE(6, 2, (4,)).to(device), 3)
    x = torch.rand(5, 6, device=device)
    results = []
    for objective in (plain, torch.compile(plain, backend="eager")):
        torch.manual_seed(5)
        results.append(torch.autograd.grad(objective(x), list(plain.parameters())))
    torch.testing.assert_close(results[0], results[1])


# Bias and weights, in closed form.


@torch.no_grad()
def test_the_gap_is_the_closed_form_variance_over_2k(device):
    """q is beside and wider than a PPCA's posterior: E r² = ∏ s²/√(2s²−1) exp(a²/(2s²−1))."""
    a, s, k = 0.4, 1.25, 64
    ppca, x = random_ppca(device=device), torch.randn(1, 5, device=device)
    model = FreeEncoder(ppca, a, s).to(device)
    variance = (s**2 / math.sqrt(2 * s**2 - 1) * math.exp(a**2 / (2 * s**2 - 1))) ** 2 - 1
    log_r = log_importance_weights(model, x.expand(20_000, 5), k) - ppca.log_likelihood(x)
    assert standard_errors(log_r.exp().flatten(), 1.0) < 4
    assert standard_errors((log_r.exp() - 1).square().flatten(), variance) < 4
    mean = log_mean_exp(log_r)
    gap = (mean.exp() - 1) - mean  # control variate: E mean weight = 1
    assert standard_errors(gap, variance / (2 * k)) < 8  # the next order is not quite nothing
    assert abs(float(gap.mean()) / (variance / (2 * k)) - 1) < 0.05
    assert standard_errors(gap, variance / k) > 8
    share = effective_sample_size(log_r.reshape(-1, 20)) / (20_000 * k / 20)
    assert standard_errors(share, 1 / (1 + variance)) < 4


def test_signal_to_noise_falls_for_the_plain_encoder_and_rises_otherwise(device):
    """Slopes −½, +½ and +½ in log K, from K = 32 and K = 512 (Rainforth et al.; Tucker et al.)."""
    ratios = {}
    for k in (32, 512):
        plain = draws_of(iwae_bound, k, device, n=4000, mean=0.4, std=1.4)
        doubly = draws_of(doubly_reparametrised_bound, k, device, n=4000, mean=0.4, std=1.4)
        signal = doubly.mean(0).abs()
        ratios[k] = {"plain": signal / plain.std(0), "doubly": signal / doubly.std(0)}
    slope = {
        name: (ratios[512][name] / ratios[32][name]).log() / math.log(16) for name in ("plain", "doubly")
    }
    for parameter in (0, 1):
        assert abs(slope["plain"][parameter] + 0.5) < 0.15
        assert slope["doubly"][parameter] > 0.35
    assert abs(slope["plain"][2] - 0.5) < 0.15


def test_effective_sample_size_by_hand():
    weights = torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    sizes = effective_sample_size(weights.log() - 1000.0)  # far below the smallest number of any type
    torch.testing.assert_close(sizes, torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(effective_sample_size(weights[:, :1].log().T, dim=1), torch.tensor([4.0]))
    three = torch.tensor([3.0, 1.0, 2.0])
    torch.testing.assert_close(effective_sample_size(three.log()), torch.tensor(36.0 / 14.0))


def test_active_units_are_those_whose_mean_moves(device):
    model = GaussianVAE(3, 3, ()).to(device)
    with torch.no_grad():
        model.encoder.mean.weight.copy_(torch.diag(torch.tensor([1.0, 0.05, 0.0])))
    x = torch.randn(4000, 3, device=device)
    assert active_units(model, x).tolist() == [True, False, False]
    assert active_units(model, x, threshold=0.001).tolist() == [True, True, False]


def test_gradient_draws_are_the_gradients_one_after_the_other():
    model, x = GaussianVAE(4, 2, (5,)), torch.randn(3, 4)
    objective, parameters = NegativeElbo(model), [model.encoder.mean.bias, model.decoder.mean.bias]
    torch.manual_seed(6)
    draws = gradient_draws(objective, x, parameters, 3)
    torch.manual_seed(6)
    for row in draws:
        expected = torch.autograd.grad(objective(x), parameters)
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in expected]))
    unused = nn.Parameter(torch.zeros(2))
    assert gradient_draws(objective, x, [unused], 2).tolist() == [[0, 0], [0, 0]]


def test_signal_to_noise_of_a_known_normal():
    draws = torch.tensor([3.0, -0.5]) + torch.tensor([2.0, 1.0]) * torch.randn(200_000, 2)
    torch.testing.assert_close(signal_to_noise(draws), torch.tensor([1.5, 0.5]), rtol=0, atol=0.02)


# Bad input.


@pytest.mark.parametrize("n_samples", [0, -1, 2.0, True])
def test_no_samples_are_refused(n_samples):
    model, x = random_ppca(), torch.randn(3, 5)
    message = f"n_samples must be a whole number of at least 1, got {n_samples}"
    with pytest.raises(ValueError, match=message):
        doubly_reparametrised_bound(model, x, n_samples)
    with pytest.raises(ValueError, match=message):
        DoublyReparametrisedBound(model, n_samples)


@pytest.mark.parametrize("objective", [NegativeIwaeBound, DoublyReparametrisedBound])
def test_a_posterior_without_reparametrisation_is_refused(objective):
    with pytest.raises(ValueError, match="Categorical has no reparametrised sampler"):
        objective(GaussianMixture(), 3)(torch.randn(4, 2))


@pytest.mark.parametrize("bound", [iwae_bound, doubly_reparametrised_bound])
def test_images_of_the_wrong_size_are_refused(bound):
    with pytest.raises(ValueError, match=r"x has 5 pixels on its last axis .* n_pixels=6"):
        bound(BernoulliVAE(6, 2, (5,)), torch.zeros(4, 5), 3)
    with pytest.raises(ValueError, match="n_pixels=5"):
        bound(random_ppca(), torch.zeros(4, 1), 3)


def test_measurements_refuse_what_they_cannot_measure():
    model = GaussianVAE(3, 2, ())
    with pytest.raises(ValueError, match="at least 2 images"):
        active_units(model, torch.randn(1, 3))
    with pytest.raises(ValueError, match=r"x must hold floats in the shape \(N, D\)"):
        active_units(model, torch.randn(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        active_units(model, torch.full((3, 3), math.nan))
    with pytest.raises(ValueError, match="n_draws must be a whole number of at least 2, got 1"):
        gradient_draws(NegativeElbo(model), torch.randn(2, 3), list(model.parameters()), 1)
    with pytest.raises(ValueError, match="parameters must hold at least one tensor"):
        gradient_draws(NegativeElbo(model), torch.randn(2, 3), [], 5)
    with pytest.raises(ValueError, match="draws must have at least 2 rows"):
        signal_to_noise(torch.randn(1, 3))


# The wrong versions of the pitfalls: each shown to be wrong against an exact answer.


@torch.no_grad()
def test_the_closed_form_kl_inside_the_weight_exceeds_the_evidence(device):
    ppca, x = random_ppca(device=device), torch.randn(1, 5, device=device).expand(4000, 5)
    truth = ppca.log_likelihood(x[:1])
    q = OtherPosteriorPPCA.like(ppca).posterior(x)
    exact = ppca.posterior(x)
    kl = torch.distributions.kl_divergence(
        exact, torch.distributions.MultivariateNormal(torch.zeros_like(exact.mean), torch.eye(2).to(x))
    )
    wrong = log_mean_exp(ppca.likelihood(exact.sample((50,))).log_prob(x) - kl) - truth
    assert wrong.mean() > 4 * wrong.std() / math.sqrt(len(wrong))
    right = iwae_bound(OtherPosteriorPPCA.like(ppca), x, 50) - truth
    assert right.mean() < 4 * right.std() / math.sqrt(len(right))
    assert q.mean.isfinite().all()


@torch.no_grad()
def test_averaging_the_wrong_axis_mixes_images():
    ppca = random_ppca()
    other, x, k = OtherPosteriorPPCA.like(ppca), 2 * torch.randn(10, 5), 400
    truth = ppca.log_likelihood(x)
    rows = log_importance_weights(other, x.repeat_interleave(k, 0), 1)[0]  # (image, sample)
    right, wrong = log_mean_exp(rows.reshape(10, k), 1), log_mean_exp(rows.reshape(k, 10), 0)
    spread = (rows.reshape(10, k) - truth[:, None]).exp().std(1) / math.sqrt(k)
    assert ((right - truth).abs() < 4 * spread + 1e-12).all()
    assert (wrong - truth).abs().max() > 1


@torch.no_grad()
def test_the_mean_over_pixels_and_the_mean_of_logs_are_no_estimates_of_the_evidence(device):
    ppca, x = random_ppca(device=device), torch.randn(1, 5, device=device).expand(500, 5)
    truth = ppca.log_likelihood(x[:1])
    model = FreeEncoder(ppca, 0.2, 1.2).to(device)
    q = model.posterior(x)
    z = q.sample((2000,))
    density_ratio = model.prior().log_prob(z) - q.log_prob(z)
    log_likelihood = model.likelihood(z).log_prob(x)
    right = log_mean_exp(log_likelihood + density_ratio)
    assert standard_errors((right - truth).exp(), 1.0) < 4
    per_pixel = log_mean_exp(log_likelihood / 5 + density_ratio)
    for candidate in (truth, truth / 5):
        assert standard_errors(per_pixel, candidate) > 4
    mean_of_logs = (log_likelihood + density_ratio).mean(0)
    kl = 0.5 * 2 * (1.2**2 + 0.2**2 - 1 - 2 * math.log(1.2))  # of the widened and shifted posterior
    assert standard_errors(mean_of_logs, truth - kl) < 4
    assert standard_errors(mean_of_logs, truth) > 4


@torch.no_grad()
def test_the_surrogate_s_value_is_the_bound_plus_missing_entropy():
    log_weights = 3 * torch.randn(7, 5)
    shares = log_weights.softmax(0)
    entropy = -(shares * shares.log()).sum(0)
    surrogate = (shares * log_weights).sum(0)
    torch.testing.assert_close(surrogate, log_mean_exp(log_weights) + math.log(7) - entropy)
    assert isinstance(diagonal_normal(torch.zeros(1), torch.ones(1)), Independent)
