r"""Grey levels as continuous data: the logit of dequantised pixels, and bits per dimension."""

import math

from torch import Tensor, nn
from torch.distributions import constraints

from course_lib.bijections import Bijection
from course_lib.checks import check_whole, looked_at

__all__ = ["Logit", "bits_per_dimension", "check_dequantised"]


class Logit(Bijection):
    r"""Pixels in [0, 1] to the whole line.

    .. math::
        z = \operatorname{logit}(p), \quad p = \alpha + (1 - 2\alpha)\, x, \qquad
        \log|\det J| = \sum_i \bigl(\log(1 - 2\alpha) - \log p_i - \log(1 - p_i)\bigr)

    The margin α keeps z finite where x is 0. The default is that of Papamakarios, Pavlakou and Murray (2017)
    for MNIST. With the source's 0.05 all noise of a black pixel, one of 256 levels, lies within 0.07 of a
    logit, and a density must be that narrow there to be good. Images with many exact zeros were not
    dequantised and are refused: on such data a density has no upper limit, since it may put a spike on each
    level. Grey levels without zeros cannot be told from real numbers, and pass.

    Args:
        alpha: the margin, 0 ≤ α < ½.

    Source:
        Dinh, Sohl-Dickstein and Bengio (2017), section 4.1.
    """

    domain = constraints.independent(constraints.unit_interval, 1)

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must be in [0, 0.5), got {alpha}")
        self.alpha = alpha

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the pixels.

        Raises:
            ValueError: a pixel outside [0, 1), or, where α = 0, at 0; or more than one in a hundred at 0.
        """
        check_dequantised(x, self.alpha)
        log_p = (self.alpha + (1 - 2 * self.alpha) * x).log()
        log_not_p = (self.alpha + (1 - 2 * self.alpha) * (1 - x)).log()
        return log_p - log_not_p, (math.log(1 - 2 * self.alpha) - log_p - log_not_p).sum(-1)

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels of the logits; logits beyond the margin give pixels a little outside [0, 1]."""
        log_p, log_not_p = nn.functional.logsigmoid(z), nn.functional.logsigmoid(-z)
        x = (log_p.exp() - self.alpha) / (1 - 2 * self.alpha)
        return x, (log_p + log_not_p - math.log(1 - 2 * self.alpha)).sum(-1)


def check_dequantised(x: Tensor, alpha: float) -> None:
    """Refuse pixels outside [0, 1), at 0 where there is no margin α, and grey levels without noise.

    The values are looked at as `looked_at` says.
    """
    if not looked_at(x) or x.numel() == 0:
        return
    x = x.detach()
    smallest, largest, n_zeros = float(x.min()), float(x.max()), int((x == 0).sum())
    cure = "dequantise the grey levels: images.batches(transform='dequantize')"
    if not (smallest >= 0 and largest < 1):  # also true of NaN
        raise ValueError(f"x has pixels in [{smallest:g}, {largest:g}], outside [0, 1); {cure}")
    if alpha == 0 and n_zeros:
        raise ValueError(f"{n_zeros} pixels of x are 0, where the logit is -inf; take alpha > 0, or {cure}")
    if n_zeros > 1 + x.numel() // 100:
        raise ValueError(
            f"{n_zeros} of the {x.numel()} pixels of x are exactly 0, so they carry no noise and no density "
            f"is bounded on them; {cure}"
        )


def bits_per_dimension(log_prob: Tensor, n_pixels: int, n_levels: int) -> Tensor:
    r"""What a density of dequantised pixels says about the grey levels, in bits for each pixel.

    .. math:: -\frac{\log p(x)}{D \log 2} + \log_2(\text{levels})

    With :math:`x = (\text{level} + u) / \text{levels}` and its average over u this is an upper bound of the
    bits that the grey levels themselves cost under the model: each level owns a cube of volume levels^(−D).

    Args:
        log_prob: log p(x) of the dequantised pixels in [0, 1), in nats, any shape.
        n_pixels: D.
        n_levels: number of grey levels, 256 for MNIST.

    Returns:
        the shape of `log_prob`.

    Source:
        Theis, van den Oord and Bethge (2016), section 3.1.
    """
    check_whole("n_pixels", n_pixels, 1)
    check_whole("n_levels", n_levels, 2)
    return -log_prob / (n_pixels * math.log(2)) + math.log2(n_levels)
