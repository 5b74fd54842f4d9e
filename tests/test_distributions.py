"""Densities against scipy and enumeration, and samples; KL divergences against torch and quadrature."""

from itertools import product

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from oracles import standard_errors
from sklearn.mixture import GaussianMixture
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from course_lib.distributions import (
    bernoulli_vector,
    diagonal_normal,
    diagonal_normal_mixture,
    kl_between_diagonal_normals,
    kl_between_normals,
    kl_to_standard_normal,
    log_mean_exp,
    sample_bits,
    sample_bits_of_mean,
)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def gaussians(device):
    """Means and standard deviations of two batches of Gaussians, shape (4, 3)."""
    mean_q, mean_p = torch.randn(2, 4, 3).to(device)
    std_q, std_p = (0.2 + torch.rand(2, 4, 3)).to(device)
    return mean_q, std_q, mean_p, std_p


def covariances(device):
    """Two batches of positive definite matrices, shape (4, 3, 3)."""
    factors = torch.randn(2, 4, 3, 3).to(device)
    return factors @ factors.mT + 0.3 * torch.eye(3).to(device)


def test_diagonal_normal_has_the_product_density(gaussians):
    mean, std, x, _ = gaussians
    expected = scipy.stats.norm.logpdf(x.cpu(), mean.cpu(), std.cpu()).sum(-1)
    distribution = diagonal_normal(mean, std)
    assert (distribution.batch_shape, distribution.event_shape) == ((4,), (3,))
    np.testing.assert_allclose(distribution.log_prob(x).cpu(), expected, rtol=1e-12)


def test_bernoulli_vector_sums_to_one_over_every_bit_string(device):
    logits = 3 * torch.randn(2, 5).to(device)
    bits = torch.tensor(list(product([0.0, 1.0], repeat=5))).to(device)
    probability = bernoulli_vector(logits).log_prob(bits.unsqueeze(1)).exp()
    torch.testing.assert_close(probability.sum(0), torch.ones(2).to(device))
    expected_bits = torch.einsum("sb,sd->bd", probability, bits)
    np.testing.assert_allclose(expected_bits.cpu(), scipy.special.expit(logits.cpu().numpy()), rtol=1e-12)


def test_bernoulli_vector_never_rounds_a_probability_to_zero(device):
    logits = torch.tensor([[200.0, -200.0]]).to(device)
    assert bernoulli_vector(logits).log_prob(torch.tensor([[0.0, 1.0]]).to(device)).item() == -400.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampled_bits_have_their_probabilities_and_are_independent(dtype, device):
    logits = torch.tensor([[-3.0, -0.5, 0.0], [0.4, 1.0, 2.5]], dtype=dtype, device=device)
    for draw, argument, generator in (
        (sample_bits, logits, None),
        (sample_bits_of_mean, logits.sigmoid(), None),
        (sample_bits_of_mean, logits.sigmoid(), torch.Generator(device).manual_seed(3)),
    ):
        bits = draw(argument.expand(50_000, 2, 3), generator)
        assert (bits.shape, bits.dtype, bits.device) == ((50_000, 2, 3), dtype, logits.device)
        assert set(bits.unique().tolist()) == {0.0, 1.0}
        mean, centred = logits.double().sigmoid(), bits.double() - logits.double().sigmoid()
        assert standard_errors(bits.double(), mean) < 4
        assert standard_errors(bits.double(), 1 - mean) > 4
        assert standard_errors(centred[:, :, 1:] * centred[:, :, :-1], 0.0) < 4
        assert standard_errors(centred[1:] * centred[:-1], 0.0) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_that_are_certain_are_always_drawn(dtype, device):
    """Impossible and certain bits are never drawn otherwise, whatever the uniform number, 0 included."""
    never, always = torch.zeros(100_000, dtype=dtype, device=device), torch.ones(100_000, dtype=dtype)
    assert not sample_bits_of_mean(never).any()
    assert sample_bits_of_mean(always.to(device)).all()
    assert not sample_bits(torch.full_like(never, -2000.0)).any()
    assert sample_bits(torch.full_like(never, 2000.0)).all()


def test_a_bit_is_one_where_the_uniform_number_is_below_its_mean(monkeypatch):
    noise = torch.tensor([0.0, 0.25, 0.5, 0.75])
    monkeypatch.setattr(torch, "rand_like", lambda *arguments, **options: noise.clone())
    assert sample_bits_of_mean(torch.full((4,), 0.5)).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert sample_bits_of_mean(torch.zeros(4)).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert sample_bits(torch.zeros(4)).tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("generator", [None, torch.Generator()])
@pytest.mark.parametrize(
    ("dtype", "noise_type"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_noise_is_as_fine_as_the_means_and_no_coarser_than_single_precision(
    monkeypatch, generator, dtype, noise_type
):
    seen = []

    def spy(draw):
        def drawn(*arguments, **options):
            noise = draw(*arguments, **options)
            seen.append(noise.dtype)
            return noise

        return drawn

    monkeypatch.setattr(torch, "rand", spy(torch.rand))
    monkeypatch.setattr(torch, "rand_like", spy(torch.rand_like))
    torch.set_default_dtype(torch.float64 if noise_type == torch.float32 else torch.float32)
    assert sample_bits_of_mean(torch.full((3,), 0.5, dtype=dtype), generator).dtype == dtype
    assert seen == [noise_type]


def test_bits_of_half_precision_are_drawn_with_noise_of_single_precision():
    """Uniform numbers of bfloat16 are multiples of 2⁻⁸: a mean of 0.002 would become 0.0039."""
    torch.manual_seed(0)
    mean = torch.full((1_000_000,), 0.002, dtype=torch.bfloat16)
    bits = sample_bits_of_mean(mean)
    assert bits.dtype == torch.bfloat16
    truth = float(mean[0])
    assert abs(float(bits.float().mean()) - truth) < 4 * (truth / 1_000_000) ** 0.5 < abs(truth - 2**-8)


@pytest.mark.parametrize("draw", [sample_bits, sample_bits_of_mean])
def test_no_gradient_passes_through_sampled_bits_which_a_generator_decides(draw, device):
    argument = torch.full((1000,), 0.5, device=device, requires_grad=True)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, same, other = (draw(argument, torch.Generator(device).manual_seed(seed)) for seed in (1, 1, 2))
    assert not one.requires_grad
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(draw(argument), draw(argument))
    assert argument.eq(0.5).all()


def test_kl_to_standard_normal_equals_torch(gaussians):
    mean, std, *_ = gaussians
    standard = Normal(torch.zeros_like(mean), torch.ones_like(std))
    expected = kl_divergence(Normal(mean, std), standard).sum(-1)
    torch.testing.assert_close(kl_to_standard_normal(mean, std), expected)


def test_kl_to_standard_normal_equals_the_integral_it_abbreviates():
    q, p = scipy.stats.norm(0.8, 0.4), scipy.stats.norm(0, 1)
    integral, _ = scipy.integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -6, 6)
    kl = float(kl_to_standard_normal(torch.tensor([0.8]), torch.tensor([0.4])))
    assert kl == pytest.approx(integral, abs=1e-9)


def test_kl_between_diagonal_normals_equals_torch(gaussians):
    mean_q, std_q, mean_p, std_p = gaussians
    expected = kl_divergence(Normal(mean_q, std_q), Normal(mean_p, std_p)).sum(-1)
    torch.testing.assert_close(kl_between_diagonal_normals(*gaussians), expected)


def test_kl_between_normals_equals_torch(gaussians, device):
    mean_q, _, mean_p, _ = gaussians
    cov_q, cov_p = covariances(device)
    expected = kl_divergence(MultivariateNormal(mean_q, cov_q), MultivariateNormal(mean_p, cov_p))
    torch.testing.assert_close(kl_between_normals(mean_q, cov_q, mean_p, cov_p), expected)
    assert not torch.allclose(kl_between_normals(mean_p, cov_p, mean_q, cov_q), expected)  # KL(p ‖ q)


def test_kl_between_normals_broadcasts_one_prior_over_a_batch(device):
    mean, (cov, _) = torch.randn(4, 3).to(device), covariances(device)
    standard = torch.zeros(3).to(device), torch.eye(3).to(device)
    expected = kl_divergence(MultivariateNormal(mean, cov), MultivariateNormal(*standard))
    torch.testing.assert_close(kl_between_normals(mean, cov, *standard), expected)


def test_kl_between_normals_refuses_an_indefinite_covariance():
    mean, indefinite = torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(torch.linalg.LinAlgError, match="not positive-definite"):
        kl_between_normals(mean, torch.eye(2), mean, indefinite)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_log_mean_exp_is_the_log_of_the_mean(dim, device):
    values = torch.randn(4, 7).to(device)
    expected = np.log(np.mean(np.exp(values.cpu().numpy()), axis=dim))
    np.testing.assert_allclose(log_mean_exp(values, dim).cpu(), expected, rtol=1e-12)


def test_log_mean_exp_survives_weights_that_underflow(device):
    values = torch.tensor([-2000.0, -2001.0]).to(device)
    assert log_mean_exp(values).item() == pytest.approx(-2000 + np.log((1 + np.exp(-1)) / 2))
    assert torch.isneginf(values.exp().mean().log())  # what the definition, typed in, would give


@pytest.fixture
def mixture_parameters(device):
    """Logits up to a constant, means and standard deviations of 4 components in 3 dimensions."""
    logits, mean = torch.randn(4).to(device) + 2, torch.randn(4, 3).to(device)
    return logits, mean, (0.3 + torch.rand(4, 3)).to(device)


def test_the_mixtures_density_equals_torchs_and_scikit_learns(mixture_parameters, device):
    logits, mean, std = mixture_parameters
    z = 2 * torch.randn(5, 6, 3).to(device)
    mixture = diagonal_normal_mixture(*mixture_parameters)
    assert (mixture.batch_shape, mixture.event_shape) == ((), (3,))
    theirs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, std), 1))
    torch.testing.assert_close(mixture.log_prob(z), theirs.log_prob(z), rtol=0, atol=1e-11)
    peer = GaussianMixture(4, covariance_type="diag")
    peer.weights_, peer.means_ = logits.softmax(0).cpu().numpy(), mean.cpu().numpy()
    peer.covariances_ = std.square().cpu().numpy()
    peer.precisions_cholesky_ = 1 / std.cpu().numpy()
    scores = peer.score_samples(z.reshape(-1, 3).cpu().numpy()).reshape(5, 6)
    np.testing.assert_allclose(mixture.log_prob(z).cpu(), scores, rtol=0, atol=1e-11)
    responsibilities = mixture.component_log_prob(z).softmax(-1)
    np.testing.assert_allclose(
        responsibilities.reshape(-1, 4).cpu(), peer.predict_proba(z.reshape(-1, 3).cpu().numpy()), atol=1e-11
    )


def test_the_mixtures_density_has_the_right_gradients(mixture_parameters, device):
    inputs = [value.requires_grad_() for value in (*mixture_parameters, torch.randn(2, 3).to(device))]

    def log_density(logits, mean, std, z):
        return diagonal_normal_mixture(logits, mean, std).log_prob(z)

    assert torch.autograd.gradcheck(log_density, inputs)


def test_far_from_every_component_the_mixtures_density_does_not_underflow(mixture_parameters):
    logits, mean, std = mixture_parameters
    z = torch.full((1, 3), 1000.0).to(mean).requires_grad_()
    value = diagonal_normal_mixture(logits, mean, std).log_prob(z)
    assert value.item() < -1e5
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize(("std", "precise"), [(1.0, True), (0.1, True), (0.003, False)])
def test_in_single_precision_the_expanded_square_loses_the_digits_that_are_documented(std, precise, device):
    """The error is at most about ε · max Σ (z² + m²) / s², and of that order where it is large."""
    mean = 3 * torch.randn(20, 10, dtype=torch.float32).to(device)
    z, stds = mean + std * torch.randn_like(mean), torch.full_like(mean, std)
    weights = torch.zeros(20, dtype=torch.float32, device=device)
    double = Independent(Normal(mean.double(), stds.double()), 1)
    truth = MixtureSameFamily(Categorical(logits=weights.double()), double).log_prob(z.double())
    error = (diagonal_normal_mixture(weights, mean, stds).log_prob(z).double() - truth).abs().max()
    bound = torch.finfo(torch.float32).eps * ((z.square() + mean.square()) / std**2).double().sum(-1).max()
    assert error < 2 * bound
    assert (error < 0.05) == precise


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (5,), ()])
def test_a_mixture_refuses_codes_of_another_dimension(mixture_parameters, shape, device):
    mixture = diagonal_normal_mixture(*mixture_parameters)
    with pytest.raises(ValueError, match=r"value has .*latents.*mixture has 3"):
        mixture.log_prob(torch.zeros(shape, device=device))


@pytest.mark.parametrize(
    ("logits", "mean", "std"),
    [((3,), (4, 2), (4, 2)), ((4,), (4, 2), (4, 1)), ((4,), (4,), (4,)), ((1,), (4, 2), (4, 2))],
)
def test_a_mixture_refuses_parameters_that_do_not_fit_together(logits, mean, std):
    with pytest.raises(ValueError, match=r"logits must have shape \(C,\), mean and std \(C, L\); got"):
        diagonal_normal_mixture(torch.zeros(logits), torch.zeros(mean), torch.ones(std))
