from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from napari_transunet.training.pictures import overlaid, write_png


def test_labels_are_tinted_and_outlined_and_the_rest_is_the_slice() -> None:
    plane = torch.linspace(0, 1, 100).reshape(10, 10)
    labels = torch.zeros(10, 10, dtype=torch.uint8)
    labels[2:7, 3:8] = 4
    picture = overlaid(plane, labels, {4: (1.0, 0.5, 0.0)})
    assert (picture.shape, picture.dtype) == ((3, 10, 10), torch.uint8)
    grey = (255 * plane).round().to(torch.uint8)
    assert all(torch.equal(channel[labels == 0], grey[labels == 0]) for channel in picture)
    assert picture[:, 2, 3].tolist() == [255, 128, 0]  # the outline
    inside = 255 * (0.65 * float(plane[4, 5]) + 0.35 * torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(picture[:, 4, 5].float(), inside, atol=1, rtol=0)


def test_classes_have_colours_of_their_own() -> None:
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    labels[:3], labels[5:] = 1, 2
    picture = overlaid(torch.zeros(8, 8, dtype=torch.float16), labels)
    assert picture[:, 0, 0].tolist() != picture[:, 7, 0].tolist()
    assert not picture[:, 4].any()


def test_values_beyond_the_window_are_cut() -> None:
    picture = overlaid(torch.tensor([[-1.0, 2.0]]), torch.zeros(1, 2, dtype=torch.uint8))
    assert picture[0].tolist() == [[0, 255]]


def test_a_png_is_read_back(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    for _ in range(2):  # an older one is replaced
        write_png(tmp_path / "picture.png", picture)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "picture.png")))
    np.testing.assert_array_equal(read, picture.permute(1, 2, 0).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
