"""Few labels: which examples get one, and the two streams that a semi-supervised objective trains on."""

import torch
from torch import Tensor

from course_lib.batches import Batches, ZippedBatches, sub_seed
from course_lib.checks import check_whole

__all__ = ["balanced_indices", "check_labelled", "labelled_and_unlabelled"]


def balanced_indices(labels: Tensor, n_per_class: int, seed: int = 0) -> Tensor:
    """Examples of every class, equally many of each, drawn without repetition.

    Args:
        labels: whole numbers 0 … C − 1, shape (N,).
        n_per_class: how many of each class.
        seed: of the draw, which is made on the CPU: it names the same examples on every device.

    Returns:
        indices of shape (C · n_per_class,), those of class 0 first.

    Raises:
        ValueError: labels that are no whole numbers, or a class with too few examples; says which.
    """
    check_whole("n_per_class", n_per_class, 1)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or labels.numel() == 0 or not whole:
        raise ValueError(
            f"labels must be whole numbers in the shape (N,), N ≥ 1, got {labels.dtype} of "
            f"{tuple(labels.shape)}"
        )
    if (least := int(labels.min())) < 0:
        raise ValueError(f"labels must be at least 0, got {least}")
    counts = labels.bincount()
    if int(counts.min()) < n_per_class:
        few = int(counts.argmin())
        raise ValueError(f"class {few} has {int(counts[few])} examples, fewer than n_per_class={n_per_class}")
    generator = torch.Generator("cpu").manual_seed(sub_seed(seed, "labelled"))
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels.cpu()[order]
    chosen = [order[shuffled == c][:n_per_class] for c in range(len(counts))]
    return torch.cat(chosen).to(labels.device)


def check_labelled(indices: Tensor, labels: Tensor) -> None:
    """Refuse labelled examples of which one is named twice or does not exist, or that miss a class.

    Args:
        indices: which examples have a label.
        labels: the labels of all examples, shape (N,).
    """
    if indices.ndim != 1 or indices.numel() == 0 or indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            "indices must be whole numbers in the shape (n,), n ≥ 1, as balanced_indices gives them; got "
            f"{indices.dtype} of {tuple(indices.shape)}"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= len(labels):
        raise ValueError(
            f"indices must be between 0 and {len(labels) - 1}, got values from {int(indices.min())} to "
            f"{int(indices.max())}"
        )
    values, counts = indices.unique(return_counts=True)
    if len(values) < len(indices):
        raise ValueError(
            f"indices names {int((counts > 1).sum())} of its examples more than once, first example "
            f"{int(values[counts > 1][0])}; each label counts once. Draw without replacement, as "
            "balanced_indices does."
        )
    n_classes = int(labels.max()) + 1
    if missing := sorted(set(range(n_classes)) - set(labels[indices].tolist())):
        raise ValueError(
            f"no labelled example of the classes {missing}: they could never be learned. Draw equally many "
            "of each class with balanced_indices."
        )


def labelled_and_unlabelled(
    tensor: Tensor,
    labels: Tensor,
    indices: Tensor,
    batch_size: int = 100,
    transform: str | None = "identity",
    seed: int = 0,
    n_levels: int = 256,
) -> ZippedBatches:
    """An endless stream of ((x, y), x without labels), for `course_lib.ssvae.SemiSupervisedObjective`.

    The examples without labels are drawn from the whole set, those with labels among them.

    Args:
        tensor: all examples, first axis N.
        labels: of all examples, shape (N,); only those named by `indices` are used.
        indices: of the examples whose labels may be used, as `balanced_indices` gives them.
        batch_size: examples without labels in a batch; of those with labels as many, or all if they are
            fewer.
        transform: as in `Batches`.
        seed: of the orders and the noise, which differ between the two streams.
        n_levels: as in `Batches`.

    Raises:
        ValueError: an index occurs twice or names no example, or a class has no labelled example.
    """
    check_labelled(indices, labels)
    labelled = Batches(
        tensor[indices],
        labels[indices],
        batch_size=min(batch_size, len(indices)),
        transform=transform,
        seed=sub_seed(seed, "labelled") % 2**32,
        n_levels=n_levels,
    )
    unlabelled = Batches(tensor, batch_size=batch_size, transform=transform, seed=seed, n_levels=n_levels)
    return ZippedBatches(labelled, unlabelled)
