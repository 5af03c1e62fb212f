import pytest

from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.errors import InputError


def test_images_are_only_mirrored_unless_more_is_asked_for() -> None:
    config = AugmentationConfig()
    assert config.flip
    assert not config.warps
    assert not config.mixes
    assert config == AugmentationConfig(
        flip=True, shift=0, rotation=0, zoom=0, brightness=0, contrast=0, erasing=0, mixup=0
    )


@pytest.mark.parametrize("name", ["shift", "rotation", "zoom"])
def test_what_warps(name) -> None:
    assert AugmentationConfig(**{name: 0.1}).warps


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_what_mixes(name) -> None:
    assert AugmentationConfig(**{name: 0.1}).mixes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": 1.5}, "shift: expected 0 to 1, received 1.5"),
        ({"rotation": -1}, "rotation: expected 0 to 180, received -1"),
        ({"zoom": float("nan")}, "zoom: expected 0 to 1, received nan"),
        ({"brightness": 2}, "brightness: expected 0 to 1, received 2"),
        ({"contrast": -0.1}, "contrast: expected 0 to 1"),
        ({"erasing": 1.01}, "erasing: expected 0 to 1"),
        ({"mixup": -0.2}, "mixup: expected at least 0, received -0.2"),
        ({"cutmix": float("inf")}, "cutmix: expected at least 0, received inf"),
    ],
)
def test_a_value_out_of_range_is_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        AugmentationConfig(**change)
