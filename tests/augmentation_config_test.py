import dataclasses

import pytest

from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.errors import InputError

GREATEST = {
    "shift": 1,
    "rotation": 180,
    "zoom": 1,
    "crop": 0.5,
    "brightness": 1,
    "contrast": 1,
    "erasing": 1,
    "mixup": 100,
    "cutmix": 100,
}


def test_images_are_only_mirrored_unless_more_is_asked_for() -> None:
    config = AugmentationConfig()
    assert config.flip
    assert not config.warps
    assert not config.mixes
    assert dataclasses.asdict(config) == {"flip": True, **dict.fromkeys(GREATEST, 0)}


@pytest.mark.parametrize("name", GREATEST)
def test_what_warps_and_what_mixes(name) -> None:
    config = AugmentationConfig(**{name: 0.1})
    assert config.warps == (name in ("shift", "rotation", "zoom", "crop"))
    assert config.mixes == (name in ("mixup", "cutmix"))


@pytest.mark.parametrize(("name", "greatest"), GREATEST.items())
def test_the_ends_of_a_range_belong_to_it(name, greatest) -> None:
    for value in (0, greatest):
        assert getattr(AugmentationConfig(**{name: value}), name) == value
    for value in (-1e-6, greatest * 1.001, float("nan")):
        with pytest.raises(InputError, match=f"^{name}: expected 0 to {greatest}, received "):
            AugmentationConfig(**{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": 1.5}, "shift: expected 0 to 1, received 1.5"),
        ({"rotation": -1}, "rotation: expected 0 to 180, received -1"),
        ({"zoom": float("nan")}, "zoom: expected 0 to 1, received nan"),
        ({"brightness": 2}, "brightness: expected 0 to 1, received 2"),
        ({"contrast": -0.1}, "contrast: expected 0 to 1"),
        ({"erasing": 1.01}, "erasing: expected 0 to 1"),
        ({"mixup": -0.2}, "mixup: expected 0 to 100, received -0.2"),
        ({"cutmix": float("inf")}, "cutmix: expected 0 to 100, received inf"),
    ],
)
def test_a_value_out_of_range_is_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        AugmentationConfig(**change)
