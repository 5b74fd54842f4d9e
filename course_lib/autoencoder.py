r"""Autoencoders: an encoder that shortens, a decoder that rebuilds, and no probability anywhere."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib.checks import check_last_axis
from course_lib.networks import mlp

__all__ = ["Autoencoder", "ReconstructionError", "squared_error"]


class Autoencoder(nn.Module):
    r"""Two deterministic networks, trained so that the second undoes the first.

    .. math:: z = \mathrm{encode}(x) \in \mathbb R^L, \qquad \hat x = \mathrm{decode}(z) \in \mathbb R^D

    The code z is the output of a linear layer, so it may lie anywhere. The defaults are the
    784-256-64-8 shape of chapter 3. With ``hidden=()`` and ``output=nn.Identity`` it is the linear
    autoencoder :math:`\hat x = W (V x + c) + b`, whose best reconstructions are those of PCA.

    Args:
        n_pixels: the number D of pixels.
        n_latents: the number L of code entries.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: module class applied after each hidden layer.
        output: module class applied to the decoder's last layer: `nn.Sigmoid` for pixels in [0, 1],
            `nn.Identity` for data without bounds, such as centred or standardised pixels.
        bias: False leaves out the biases of the layer that gives the code and of the layer that gives the
            pixels; hidden layers keep theirs. For linear autoencoders of data that were centred beforehand.

    Raises:
        ValueError: a size below 1 or no integer; hidden that is no sequence; an activation or output that
            is no module class.

    Source:
        Rumelhart, Hinton and Williams (1986); Hinton and Salakhutdinov (2006).
    """

    def __init__(
        self,
        n_pixels: int,
        n_latents: int = 8,
        hidden: Sequence[int] = (256, 64),
        activation: type[nn.Module] = nn.ELU,
        output: type[nn.Module] = nn.Sigmoid,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence):
            raise ValueError(f"hidden must be a sequence of widths such as (256, 64), got {hidden!r}")
        if any(not isinstance(size, int) or size < 1 for size in (n_pixels, n_latents, *hidden)):
            raise ValueError(
                f"n_pixels, n_latents and all hidden widths must be integers and at least 1, got "
                f"n_pixels={n_pixels}, n_latents={n_latents}, hidden={tuple(hidden)}"
            )
        for name, module in {"activation": activation, "output": output}.items():
            if not (isinstance(module, type) and issubclass(module, nn.Module)):
                raise ValueError(
                    f"{name} must be a module class such as nn.ELU or nn.Identity, without brackets, "
                    f"got {module!r}"
                )
        self.n_pixels, self.n_latents = n_pixels, n_latents
        backwards = tuple(reversed(hidden))
        self.encoder = mlp(n_pixels, hidden, activation)
        self.encoder.append(nn.Linear([n_pixels, *hidden][-1], n_latents, bias))
        self.decoder = mlp(n_latents, backwards, activation)
        self.decoder.append(nn.Linear([n_latents, *backwards][-1], n_pixels, bias))
        self.decoder.append(output())

    def encode(self, x: Tensor) -> Tensor:
        r"""The codes z of images x: shape (\*batch, D) to (\*batch, L).

        Raises:
            ValueError: x has another number of pixels than the autoencoder, or another type.
        """
        check_last_axis("x", x, "n_pixels", self.n_pixels, "Flatten images with x.flatten(1).")
        self._check_type("x", x)
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        r"""The images of codes z: shape (\*batch, L) to (\*batch, D).

        Raises:
            ValueError: z has another number of entries than this autoencoder's codes, or another type.
        """
        check_last_axis("z", z, "n_latents", self.n_latents)
        self._check_type("z", z)
        return self.decoder(z)

    def _check_type(self, name: str, value: Tensor) -> None:
        """Refuse a tensor of another type than the weights; under autocast torch converts them itself."""
        weights = next(self.parameters()).dtype
        if not value.is_floating_point() or (
            value.dtype != weights and not torch.is_autocast_enabled(value.device.type)
        ):
            raise ValueError(
                f"{name} is {value.dtype}, but the weights of this autoencoder are {weights}: convert one of "
                f"them, {name}.to({weights}) or autoencoder.to({value.dtype}). Scale grey levels of 0 to 255 "
                "to [0, 1] first."
            )

    def forward(self, x: Tensor) -> Tensor:
        r"""The reconstruction decode(encode(x)), of x's shape (\*batch, D)."""
        return self.decode(self.encode(x))


def squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    r"""The squared error of each reconstruction, summed over the pixels.

    .. math:: \|x - \hat x\|^2 = \sum_{d=1}^D (x_d - \hat x_d)^2

    Args:
        x: shape (\*batch, D).
        reconstruction: of the same shape. No broadcasting: it would compare the wrong images in silence.

    Returns:
        shape (\*batch,), in squared units of a pixel.

    Raises:
        ValueError: the shapes differ, or one of the two is of an integer type, whose squares would overflow.
    """
    if x.shape != reconstruction.shape:
        raise ValueError(
            f"x and reconstruction must have the same shape, got {tuple(x.shape)} and "
            f"{tuple(reconstruction.shape)}"
        )
    if not (x.is_floating_point() and reconstruction.is_floating_point()):
        raise ValueError(
            f"x and reconstruction must be of a floating-point type, got {x.dtype} and "
            f"{reconstruction.dtype}: convert integers first, for example x.float() / 255"
        )
    return (x - reconstruction).square().sum(-1)


class ReconstructionError(nn.Module):
    r"""The objective of an autoencoder: the mean over the batch of the squared error summed over pixels.

    .. math:: \frac1B \sum_{b=1}^B \bigl\|x_b - \mathrm{decode}(\mathrm{encode}(\tilde x_b))\bigr\|^2

    Here :math:`\tilde x = x`, or a corrupted copy of x: then it is the objective of a denoising autoencoder,
    whose target is still the clean image.

    Args:
        autoencoder: any module from x to a reconstruction of the same shape.
        corruption: a callable from x, shape (B, D), to a spoilt copy of the same shape; drawn afresh in
            every call, and given a copy of x, so that it may work in place. None spoils nothing.

    Raises:
        ValueError: on a batch without images, whose mean would be NaN.

    Source:
        Denoising: Vincent, Larochelle, Bengio and Manzagol (2008).
    """

    def __init__(self, autoencoder: nn.Module, corruption: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.autoencoder, self.corruption = autoencoder, corruption

    def forward(self, x: Tensor) -> Tensor:
        """A batch of shape (B, D); the scalar to minimise, in squared units of a pixel."""
        if x.shape[0] == 0:
            raise ValueError(f"the batch has no images: x has shape {tuple(x.shape)}")
        seen = x if self.corruption is None else self.corruption(x.clone())
        return squared_error(x, self.autoencoder(seen)).mean()
