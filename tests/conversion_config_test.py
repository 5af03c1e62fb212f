import pytest

from fer_tfdata.conversion_config import DROP_REASONS, ConversionConfig
from fer_tfdata.errors import InputError


def config(**values: object) -> ConversionConfig:
    return ConversionConfig(**{"csv": ("a.csv",), "output_dir": "data", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"csv": ()}, "either --csv or --image_dir, received neither"),
        ({"image_dir": "faces"}, "either --csv or --image_dir, received both"),
        ({"image_size": 64}, "image_size, channels: expected with --image_dir only"),
        ({"channels": 3}, "image_size, channels: expected with --image_dir only"),
        ({"csv": (), "image_dir": "f", "channels": 2}, "channels: expected 1 or 3, received 2"),
        ({"csv": (), "image_dir": "f", "image_size": 7}, "image_size: expected 8 to 1024"),
        ({"csv": (), "image_dir": "f", "ferplus_csv": "v"}, "ferplus_csv: expected with --csv"),
        ({"csv": (), "image_dir": "data"}, "output_dir: .* received data within data"),
        ({"csv": (), "image_dir": "."}, r"output_dir: .* received data within \."),
        ({"csv": (), "image_dir": "f", "output_dir": "g/../f/d"}, "output_dir: .* within f"),
        ({"expression_names": ("1=sad",)}, "expression_names: expected with --image_dir only"),
        ({"csv": (), "image_dir": "f", "expression_names": ("1",)}, "expression_names: .* '1'"),
        ({"num_shards": -1}, "num_shards: expected 0 to 99999, received -1"),
        ({"num_shards": 100_000}, "num_shards: expected 0 to 99999, received 100000"),
        ({"seed": -1}, "seed: expected 0 to 2147483647, received -1"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected at least 0"),
        ({"validation_fraction": float("nan")}, "validation_fraction: expected at least 0"),
        ({"drop": ("leaks", "ugly")}, "drop: expected some of leaks, .*, received 'ugly'"),
        ({"drop": ("not_a_face",)}, "drop: not_a_face .* needs --ferplus_csv"),
        ({"ferplus_join": "name"}, "ferplus_join: expected with --ferplus_csv only"),
        ({"ferplus_csv": "v", "ferplus_join": "x"}, "ferplus_join: expected one of row, name"),
        ({"on_bad_row": "mend"}, "on_bad_row: expected one of error, skip, received 'mend'"),
        ({"engine": "spark"}, "engine: expected one of local, beam, received 'spark'"),
        ({"beam_args": "--runner=DirectRunner"}, "beam_args: expected with --engine=beam only"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(values: dict, message: str):
    with pytest.raises(InputError, match=message):
        config(**values)


def test_what_goes_together_is_taken():
    config(
        ferplus_csv="v.csv",
        ferplus_join="name",
        drop=DROP_REASONS,
        num_shards=99_999,
        validation_fraction=0.5,
    )
    config(csv=(), image_dir="faces", image_size=96, channels=3)
    config(csv=(), image_dir="data/../faces", output_dir="faces_as_records")
    config(engine="beam", beam_args="--runner=DirectRunner")
