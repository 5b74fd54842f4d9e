"""Densities against scipy and enumeration, and samples; KL divergences against torch and quadrature."""

from itertools import product

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from oracles import standard_errors
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from course_lib.distributions import (
    bernoulli_vector,
    diagonal_normal,
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
