"""The data sets against scikit-learn, enumeration and published counts; damaged and missing files."""

import gzip
import hashlib
import http.server
import os
import threading
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from idx_files import FILES, write_idx
from oracles import standard_errors
from sklearn.datasets import load_digits
from torchvision import datasets

from course_lib.data import bars_and_stripes, default_device, load_images
from course_lib.labels import balanced_indices

REAL_DATA = os.environ.get("COURSE_DATA_DIR")
UNREACHABLE = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    """The reader's own settings do not reach these tests, and no download leaves this machine."""
    for variable in ("COURSE_DATASET", "COURSE_DATA_DIR", "COURSE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for dataset in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", [UNREACHABLE])


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# The digits.


def test_digits_are_scikit_learns_split_in_two_without_overlap(device):
    images, bunch = load_images("digits", device), load_digits()
    assert (images.name, images.shape, images.n_pixels) == ("digits", (8, 8), 64)
    assert images.device.type == device.type
    assert (images.train.shape, images.test.shape) == ((1500, 64), (297, 64))
    assert images.train.dtype == images.test.dtype == torch.uint8
    assert images.n_levels == 17

    pixels = torch.cat([images.train, images.test]).cpu().numpy()
    labels = torch.cat([images.train_labels, images.test_labels]).cpu().numpy()
    ours, theirs = np.c_[pixels, labels], np.c_[bunch.data, bunch.target]
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_the_split_of_the_digits_is_fixed_and_mixes_all_classes_and_writers():
    torch.manual_seed(1)
    one = load_images("digits", "cpu")
    torch.manual_seed(2)
    assert torch.equal(one.train, load_images("digits", "cpu").train)
    assert one.test_labels.bincount().min() >= 20

    pixels = torch.from_numpy(load_digits().data)  # sorted by writer
    places = torch.cdist(one.test.double(), pixels).argmin(1).double().unsqueeze(1)
    assert standard_errors(places, (len(pixels) - 1) / 2) < 4
    last_in_the_file = torch.arange(1500.0, 1797.0).unsqueeze(1)
    assert standard_errors(last_in_the_file, (len(pixels) - 1) / 2) > 4


def test_batches_pair_each_image_with_its_label(device):
    images = load_images("digits", device)
    x, labels = next(images.batches(1500, transform=None, labels=True))
    order = np.lexsort(np.c_[labels.cpu(), x.cpu()].T)
    expected = np.c_[images.train_labels.cpu(), images.train.cpu() / 16]
    np.testing.assert_allclose(
        np.c_[labels.cpu(), x.cpu()][order], expected[np.lexsort(expected.T)], rtol=1e-6
    )


def test_semi_supervised_batches_pair_labelled_bits_with_unlabelled_ones(device):
    images = load_images("digits", device)
    indices = balanced_indices(images.train_labels, 5)
    stream = images.semi_supervised_batches(indices, batch_size=100, transform=None)
    (x, y), x_unlabelled = next(stream)
    assert (x.shape, y.shape, x_unlabelled.shape) == ((50, 64), (50,), (100, 64))
    order = np.lexsort(np.c_[y.cpu(), x.cpu()].T)
    expected = np.c_[images.train_labels[indices].cpu(), images.train[indices].cpu() / 16]
    np.testing.assert_allclose(np.c_[y.cpu(), x.cpu()][order], expected[np.lexsort(expected.T)], rtol=1e-6)
    (bits, _), more_bits = next(images.semi_supervised_batches(indices))
    assert set(bits.unique().tolist()) == set(more_bits.unique().tolist()) == {0.0, 1.0}


def test_semi_supervised_batches_refuse_duplicates_and_missing_classes(device):
    images = load_images("digits", device)
    indices = balanced_indices(images.train_labels, 5)
    with pytest.raises(ValueError, match=r"indices names 1 of its examples more than once"):
        images.semi_supervised_batches(torch.cat([indices, indices[:1]]))
    with pytest.raises(ValueError, match=r"no labelled example of the classes \[0\]"):
        images.semi_supervised_batches(indices[5:])


def test_batches_are_bits_unless_asked_otherwise(device):
    batch = next(load_images("digits", device).batches(10))
    assert batch.shape == (10, 64)
    assert set(batch.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluation_gives_the_same_bits_every_time_for_one_seed(split, device):
    images = load_images("digits", device)
    pixels = getattr(images, split)
    one = images.evaluation(split=split)
    assert torch.equal(one, images.evaluation(split=split))
    assert not torch.equal(one, images.evaluation(split=split, seed=1))
    assert one.shape == pixels.shape
    assert not one[pixels == 0].any()
    assert one[pixels == 16].all()
    torch.testing.assert_close(images.evaluation(None, split), pixels / 16)


def test_seed_zero_names_the_same_bits_on_every_device(device):
    """Published numbers are "binarised once with seed 0": their images must not depend on the machine."""
    bits = load_images("digits", device).evaluation()
    assert bits.device.type == device.type
    digest = hashlib.sha256(bits.to(torch.uint8).cpu().numpy().tobytes()).hexdigest()
    assert digest.startswith("209938986395663a")


def test_evaluation_noise_is_not_that_of_the_seed_itself(device):
    """After `torch.manual_seed(seed)` that noise has initialised the network already."""
    images = load_images("digits", device)
    noise = (17 * images.evaluation("dequantize", "train").double()) % 1
    plain = torch.rand(noise.shape, generator=torch.Generator().manual_seed(0)).to(device)
    pairs = ((noise - 0.5) * (plain - 0.5)).flatten().unsqueeze(1)
    assert standard_errors(pairs, 0.0) < 4
    assert standard_errors(pairs, 1 / 12) > 4  # the variance of u, which the same numbers would give


def test_dequantized_digits_fill_the_gaps_between_their_seventeen_levels(device):
    images = load_images("digits", device)
    for values in (images.evaluation("dequantize", "train"), next(images.batches(1500, "dequantize"))):
        places = (17 * values.double()) % 1
        assert standard_errors(places.flatten().unsqueeze(1), 0.5) < 4
        assert 0.95 < values.max() < 1
        levels = (17 * values.double() + 1e-6).floor().long().flatten().bincount(minlength=17)
        assert torch.equal(levels, images.train.flatten().bincount(minlength=17))


def test_evaluation_refuses_unknown_splits_and_transforms():
    images = load_images("digits", "cpu")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'validation'"):
        images.evaluation(split="validation")
    with pytest.raises(ValueError, match=r"must be one of \[None, 'binarize', 'dequantize'\], got 'bits'"):
        images.evaluation("bits")


# Bars and stripes.


def squares_of_lines(side):
    """Every way to switch on rows, then every way to switch on columns, as nested tuples."""
    for lines in product([0.0, 1.0], repeat=side):
        yield tuple(tuple(line for _ in range(side)) for line in lines)
    for lines in product([0.0, 1.0], repeat=side):
        yield tuple(lines for _ in range(side))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_bars_and_stripes_are_all_squares_of_rows_and_all_squares_of_columns(side):
    patterns = bars_and_stripes(side)
    assert (patterns.shape, patterns.dtype) == ((2 * 2**side, side**2), torch.float32)
    squares = sorted(tuple(map(tuple, square)) for square in patterns.view(-1, side, side).tolist())
    assert squares == sorted(squares_of_lines(side))


def test_blank_and_full_occur_twice_and_every_other_pattern_once():
    patterns, counts = bars_and_stripes(3).unique(dim=0, return_counts=True)
    assert len(patterns) == 14
    twice = patterns[counts == 2]
    assert sorted(twice.sum(1).tolist()) == [0.0, 9.0]
    assert sorted(counts.tolist()) == [1] * 12 + [2] * 2


@pytest.mark.parametrize("side", [0, -2])
def test_a_square_without_pixels_is_refused(side):
    with pytest.raises(ValueError, match=f"side must be at least 1 pixel, got {side}"):
        bars_and_stripes(side)


# Which data set, which device.


def test_the_environment_chooses_the_data_set_and_the_argument_wins(monkeypatch, tiny_mnist):
    assert load_images().name == "digits"
    monkeypatch.setenv("COURSE_DATASET", "mnist")
    monkeypatch.setenv("COURSE_DATA_DIR", str(tiny_mnist))
    assert load_images().name == "mnist"
    assert load_images("digits").name == "digits"


def test_an_unknown_data_set_is_refused_with_the_known_ones_named(monkeypatch):
    message = r"unknown data set 'minst'; COURSE_DATASET and name may be one of .*'digits', 'mnist'"
    with pytest.raises(ValueError, match=message):
        load_images("minst")
    monkeypatch.setenv("COURSE_DATASET", "minst")
    with pytest.raises(ValueError, match=message):
        load_images()


def test_the_environment_chooses_the_device_and_the_argument_wins(monkeypatch):
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("COURSE_DEVICE", "meta")
    assert default_device().type == "meta"
    assert load_images("digits").device.type == "meta"
    assert default_device("cpu") == load_images("digits", "cpu").device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_this_machine_lacks_is_refused(monkeypatch, name):
    message = f"cannot compute on device '{name}'.*COURSE_DEVICE.*cpu"
    with pytest.raises(ValueError, match=message):
        load_images("digits", name)
    monkeypatch.setenv("COURSE_DEVICE", name)
    with pytest.raises(ValueError, match=message):
        default_device()


# Files in the layout of MNIST.


def test_mnist_files_are_read_pixel_by_pixel(tiny_mnist, device):
    images = load_images("mnist", device, tiny_mnist)
    assert (images.name, images.shape, images.n_pixels) == ("mnist", (28, 28), 784)
    assert images.n_levels == 256
    for split, pixels in (("train", images.train), ("t10k", images.test)):
        raw = (tiny_mnist / "MNIST" / "raw" / f"{split}-images-idx3-ubyte").read_bytes()[16:]
        assert bytes(pixels.cpu().numpy()) == raw
    raw = (tiny_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").read_bytes()[8:]
    assert bytes(images.test_labels.tolist()) == raw


def test_fashion_mnist_is_read_from_its_own_folder(tiny_mnist):
    (tiny_mnist / "MNIST").rename(tiny_mnist / "FashionMNIST")
    assert load_images("fashion-mnist", "cpu", tiny_mnist).train.shape == (20, 784)


@pytest.mark.skipif(not REAL_DATA, reason="COURSE_DATA_DIR names no folder with the real MNIST")
def test_real_mnist_has_its_published_class_counts_and_moments():
    images = load_images("mnist", "cpu", REAL_DATA)
    assert images.train_labels.bincount().tolist() == [
        *(5923, 6742, 5958, 6131, 5842),
        *(5421, 5918, 6265, 5851, 5949),
    ]
    assert images.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    grey = images.evaluation(None, "train").double()
    assert grey.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert grey.std().item() == pytest.approx(0.3081, abs=5e-5)


# Damaged files.


@pytest.mark.parametrize("kept", [0, 3, 10, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_with_its_folder_and_the_cure(tiny_mnist, name, kept):
    path = tiny_mnist / "MNIST" / "raw" / name
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"the mnist files in .*MNIST/raw are damaged .*Delete that folder"):
        load_images("mnist", "cpu", tiny_mnist)


def test_images_and_labels_of_different_number_are_refused(tiny_mnist):
    write_idx(tiny_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.zeros(9))
    with pytest.raises(ValueError, match=r"damaged .*images and labels differ in number.*Delete that folder"):
        load_images("mnist", "cpu", tiny_mnist)


# Downloads.


def test_an_unreachable_download_says_what_to_do_and_leaves_nothing(tmp_path):
    message = r"mnist is not in .*/data and could not be downloaded .*Connection refused.*COURSE_DATA_DIR"
    with pytest.raises(ConnectionError, match=message + ".*COURSE_DATASET=digits") as error:
        load_images("mnist", "cpu", tmp_path / "data")
    assert "Check the network" in str(error.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_an_unreachable_download_leaves_the_files_that_were_there(tiny_mnist):
    (tiny_mnist / "MNIST" / "raw" / FILES[3]).unlink()
    before = files_in(tiny_mnist)
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        load_images("mnist", "cpu", tiny_mnist)
    assert files_in(tiny_mnist) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/data.*Not a directory.*set COURSE_DATA_DIR"):
        load_images("mnist", "cpu", tmp_path / "file" / "data")


@pytest.fixture
def mirror(tiny_mnist, tmp_path, monkeypatch):
    """A web server on this machine with the tiny set's four files, as the real mirrors have them."""
    folder, resources = tmp_path / "mirror", []
    folder.mkdir()
    for name in FILES:
        packed = gzip.compress((tiny_mnist / "MNIST" / "raw" / name).read_bytes())
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    yield folder
    server.shutdown()
    server.server_close()


def test_a_missing_data_set_is_downloaded_once(mirror, tiny_mnist, tmp_path):
    downloaded = load_images("mnist", "cpu", tmp_path / "new")
    assert torch.equal(downloaded.train, load_images("mnist", "cpu", tiny_mnist).train)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]
    for file in mirror.iterdir():
        file.unlink()
    assert torch.equal(load_images("mnist", "cpu", tmp_path / "new").test, downloaded.test)


def test_a_download_replaces_an_incomplete_folder(mirror, tiny_mnist):
    whole = load_images("mnist", "cpu", tiny_mnist)
    (tiny_mnist / "MNIST" / "raw" / FILES[2]).unlink()
    assert torch.equal(load_images("mnist", "cpu", tiny_mnist).test, whole.test)


@pytest.mark.parametrize("damage", ["missing", "corrupted"])
def test_a_download_that_breaks_off_leaves_nothing(mirror, tmp_path, damage):
    last = mirror / f"{FILES[-1]}.gz"
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:-5])
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        load_images("mnist", "cpu", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
