"""The autoencoder against scikit-learn's PCA, products written out in numpy, and the Wiener filter."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.metrics import mean_squared_error
from torch import nn

from course_lib.autoencoder import Autoencoder, ReconstructionError, squared_error
from course_lib.batches import Batches
from course_lib.data import load_images
from course_lib.training import fit, fit_full_batch


def correlated_data(n=400, n_pixels=6, device="cpu"):
    """Centred float64 data with standard deviations 3, 2, 1, 0.5, 0.3, 0.1 along random axes."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(n_pixels, n_pixels, generator=generator, dtype=torch.float64)).Q
    scale = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3, 0.1], dtype=torch.float64)[:n_pixels]
    x = torch.randn(n, n_pixels, generator=generator, dtype=torch.float64) * scale @ axes.T
    return (x - x.mean(0)).to(device)


def linear(n_pixels, n_latents, **options):
    return Autoencoder(n_pixels, n_latents, hidden=(), output=nn.Identity, **options).double()


# The two networks.


def test_the_forward_pass_is_the_product_of_the_layers_written_out():
    torch.manual_seed(0)
    autoencoder = Autoencoder(5, 2, hidden=(4, 3), activation=nn.Tanh).double()
    x = torch.rand(7, 5, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in autoencoder.named_parameters()}

    def layer(h, name):
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    code = layer(np.tanh(layer(np.tanh(layer(x.numpy(), "encoder.0")), "encoder.2")), "encoder.4")
    logits = layer(np.tanh(layer(np.tanh(layer(code, "decoder.0")), "decoder.2")), "decoder.4")
    np.testing.assert_allclose(autoencoder.encode(x).detach(), code, rtol=0, atol=1e-12)
    np.testing.assert_allclose(autoencoder(x).detach(), 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-12)


def test_the_defaults_are_the_shape_of_the_chapter():
    autoencoder = Autoencoder(784)
    widths = [module.weight.shape for module in autoencoder.modules() if isinstance(module, nn.Linear)]
    assert widths == [(256, 784), (64, 256), (8, 64), (64, 8), (256, 64), (784, 256)]
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == sum(
        n_out * (n_in + 1) for n_out, n_in in widths
    )
    assert autoencoder.n_pixels == 784
    assert autoencoder.n_latents == 8


def test_all_leading_axes_are_batch_axes(device):
    autoencoder = Autoencoder(6, 3, hidden=(5,)).to(device)
    x = torch.rand(4, 2, 6, device=device)
    assert autoencoder.encode(x).shape == (4, 2, 3)
    assert autoencoder(x).shape == (4, 2, 6)
    torch.testing.assert_close(autoencoder(x)[1, 0], autoencoder(x[1, 0]))
    assert autoencoder(x).min() >= 0
    assert autoencoder(x).max() <= 1


def test_without_bias_the_code_of_zero_is_zero():
    autoencoder = linear(6, 3, bias=False)
    assert torch.equal(
        autoencoder(torch.zeros(2, 6, dtype=torch.float64)), torch.zeros(2, 6, dtype=torch.float64)
    )
    assert {name for name, _ in autoencoder.named_parameters()} == {"encoder.0.weight", "decoder.0.weight"}


def test_with_the_weights_of_a_fitted_pca_it_is_that_pca(device):
    x = correlated_data(device=device) + 5
    pca = PCA(3).fit(x.cpu().numpy())
    components = torch.as_tensor(pca.components_, device=device)
    mean = torch.as_tensor(pca.mean_, device=device)
    autoencoder = linear(6, 3).to(device)
    with torch.no_grad():
        autoencoder.encoder[0].weight.copy_(components)
        autoencoder.encoder[0].bias.copy_(-components @ mean)
        autoencoder.decoder[0].weight.copy_(components.T)
        autoencoder.decoder[0].bias.copy_(mean)
    np.testing.assert_allclose(
        autoencoder.encode(x).detach().cpu(), pca.transform(x.cpu().numpy()), rtol=0, atol=1e-10
    )
    expected = pca.inverse_transform(pca.transform(x.cpu().numpy()))
    np.testing.assert_allclose(autoencoder(x).detach().cpu(), expected, rtol=0, atol=1e-10)


# The objective.


def test_the_error_is_scikit_learns_mean_squared_error_times_the_pixels(device):
    x, reconstruction = torch.rand(9, 6, device=device), torch.rand(9, 6, device=device)
    expected = 6 * mean_squared_error(x.cpu().numpy(), reconstruction.cpu().numpy())
    assert float(squared_error(x, reconstruction).mean()) == pytest.approx(expected, rel=1e-6)
    assert squared_error(x, reconstruction).shape == (9,)
    assert squared_error(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 1.0])) == 25


def test_a_corruption_changes_what_is_seen_and_not_the_target():
    autoencoder = nn.Identity()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert ReconstructionError(autoencoder)(x) == 0
    # Seen: half of x. Its distance to the clean x is x/2, with squares 1.25 and 6.25.
    assert ReconstructionError(autoencoder, corruption=lambda x: x / 2)(x) == 3.75


def test_a_corruption_in_place_leaves_the_target_alone():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert ReconstructionError(nn.Identity(), corruption=lambda x: x.mul_(0.5))(x) == 3.75
    assert torch.equal(x, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_the_corruption_is_drawn_afresh_in_every_call():
    torch.manual_seed(0)
    objective = ReconstructionError(nn.Identity(), corruption=lambda x: x + torch.randn_like(x))
    x = torch.zeros(1, 3)
    assert objective(x) != objective(x)


def test_the_full_batch_fit_of_a_linear_autoencoder_finds_the_principal_subspace(device):
    x = correlated_data(device=device)
    torch.manual_seed(0)
    autoencoder = linear(6, 2, bias=False).to(device)
    history = fit_full_batch(ReconstructionError(autoencoder), x, tolerance=1e-8)
    pca = PCA(2).fit(x.cpu().numpy())
    beyond = (x.var(0, correction=0).sum() - pca.explained_variance_.sum() * (len(x) - 1) / len(x)).item()
    assert history.losses[-1] == pytest.approx(beyond, rel=1e-9)
    decoder = autoencoder.decoder[0].weight.detach().cpu().numpy()
    encoder = autoencoder.encoder[0].weight.detach().cpu().numpy()
    assert subspace_angles(decoder, pca.components_.T).max() < 1e-5
    assert subspace_angles(encoder.T, pca.components_.T).max() < 1e-5
    # Only the subspace is determined: the columns are not the components.
    assert abs(decoder[:, 0] @ decoder[:, 1]) > 1e-3 * np.linalg.norm(decoder[:, 0]) ** 2


def test_with_biases_the_fit_centres_the_data_by_itself():
    x = correlated_data() + torch.arange(6.0, dtype=torch.float64)
    torch.manual_seed(0)
    with_bias, without = linear(6, 2), linear(6, 2, bias=False)
    errors = [
        fit_full_batch(ReconstructionError(model), x, max_iterations=2000, tolerance=1e-7).losses[-1]
        for model in (with_bias, without)
    ]
    n = len(x)
    centred = PCA().fit(x.numpy()).explained_variance_[2:].sum() * (n - 1) / n
    raw = np.linalg.svd(x.numpy(), compute_uv=False)[2:] ** 2 / n
    assert errors == pytest.approx([centred, raw.sum()], rel=1e-8)
    assert raw.sum() > 1.1 * centred


def test_a_linear_denoiser_is_the_wiener_filter():
    r"""Of centred x with covariance Σ seen through noise of variance τ², the best matrix is Σ(Σ + τ²I)⁻¹."""
    x, tau = correlated_data(n=2000), 0.7
    torch.manual_seed(0)
    autoencoder = linear(6, 6, bias=False)
    objective = ReconstructionError(autoencoder, corruption=lambda x: x + tau * torch.randn_like(x))
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
    fit(objective, Batches(x, batch_size=500), 2000, optimizer, schedule)
    covariance = x.T @ x / len(x)
    wiener = covariance @ torch.linalg.inv(covariance + tau**2 * torch.eye(6, dtype=torch.float64))
    product = (autoencoder.decoder[0].weight @ autoencoder.encoder[0].weight).detach()
    assert (product - wiener).abs().max() < 0.02
    assert (product - torch.eye(6, dtype=torch.float64)).abs().max() > 0.3  # what no noise would teach


def test_at_eight_numbers_it_beats_pca_by_45_percent_on_test_digits():
    images = load_images("digits", device="cpu")
    x_train, x_test = images.evaluation(None, "train"), images.evaluation(None, "test")
    torch.manual_seed(0)
    autoencoder = Autoencoder(64, 8)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 1000)
    fit(ReconstructionError(autoencoder), Batches(x_train, batch_size=100), 1000, optimizer, schedule)
    pca = PCA(8).fit(x_train.numpy())
    baseline = ((x_test.numpy() - pca.inverse_transform(pca.transform(x_test.numpy()))) ** 2).sum(1).mean()
    with torch.no_grad():
        assert float(squared_error(x_test, autoencoder(x_test)).mean()) < 0.55 * baseline


# Bad input.


@pytest.mark.parametrize(
    ("sizes", "seen"),
    [
        ((0, 8, (256,)), "n_pixels=0"),
        ((64, 0, (256,)), "n_latents=0"),
        ((64, 8, (256, 0)), r"hidden=\(256, 0\)"),
        ((64.0, 8, (256,)), r"n_pixels=64\.0"),
    ],
)
def test_layers_that_are_empty_or_no_integer_are_refused(sizes, seen):
    with pytest.raises(ValueError, match=f"must be integers and at least 1, got .*{seen}"):
        Autoencoder(*sizes)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"hidden": 64}, "hidden must be a sequence .* got 64"),
        ({"activation": nn.GELU()}, r"activation must be a module class .* got GELU\("),
        ({"output": None}, "output must be a module class .* got None"),
    ],
)
def test_arguments_of_another_kind_are_refused(options, seen):
    with pytest.raises(ValueError, match=seen):
        Autoencoder(64, **options)


def test_tensors_of_another_type_than_the_weights_are_refused():
    autoencoder = Autoencoder(6, 2, hidden=())
    with pytest.raises(ValueError, match=r"x is torch.uint8, .* weights .* are torch.float32.*to \[0, 1\]"):
        autoencoder(torch.zeros(3, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"z is torch.float64, .*z.to\(torch.float32\)"):
        autoencoder.decode(torch.zeros(3, 2, dtype=torch.float64))


def test_an_error_of_integers_is_refused():
    """In uint8, 0 − 200 is 56 and its square 64."""
    x = torch.zeros(1, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"floating-point type, got torch.uint8 and torch.uint8.*/ 255"):
        squared_error(x, x + 200)


def test_a_batch_without_images_is_refused():
    with pytest.raises(ValueError, match=r"no images: x has shape \(0, 4\)"):
        ReconstructionError(nn.Identity())(torch.rand(0, 4))


def test_images_of_another_size_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"x has shape \(5, 8, 8\).*n_pixels=64.*x.flatten\(1\)"):
        Autoencoder(64)(torch.rand(5, 8, 8))
    with pytest.raises(ValueError, match=r"x has shape \(\)"):
        Autoencoder(1)(torch.tensor(0.5))


def test_codes_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"z has shape \(5, 7\).*n_latents=8"):
        Autoencoder(64).decode(torch.rand(5, 7))


def test_an_error_between_different_shapes_is_refused():
    """Broadcasting would compare every image with the first reconstruction."""
    with pytest.raises(ValueError, match=r"same shape, got \(5, 4\) and \(1, 4\)"):
        squared_error(torch.rand(5, 4), torch.rand(1, 4))
