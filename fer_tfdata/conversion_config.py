"""What a conversion is a function of."""

import dataclasses
from pathlib import Path
from typing import Final, Literal, get_args

from fer_tfdata.audit import DropReason
from fer_tfdata.errors import InputError
from fer_tfdata.ferplus import Join
from fer_tfdata.sources import OnBadRow, parse_expression_names

EngineName = Literal["local", "beam"]

ENGINES: Final = get_args(EngineName)
FERPLUS_JOINS: Final = get_args(Join)
ON_BAD_ROW: Final = get_args(OnBadRow)
DROP_REASONS: Final = get_args(DropReason)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """Names, defaults and checks.

    Attributes:
      csv: FER2013's CSVs, read one after another; this or `image_dir`.
      image_dir: a folder of images, by split and expression.
      ferplus_csv: the FER+ votes of the CSVs' rows.
      ferplus_join: by "row" or by "name".
      image_size: height and width that images of a folder are fitted to.
      channels: 1 for gray, 3 for colour; of a folder's images.
      expression_names: `NAME=EXPRESSION` for each name of a folder that is no expression's own.
      output_dir: a TFDS data directory.
      num_shards: shards a split; 0 chooses by size.
      seed: of the order in which `train` is written.
      on_bad_row: "error" or "skip".
      drop: which faults make a training image be left out.
      validation_fraction: the share of the training images that becomes `validation`.
      overwrite: replaces the data set that stands there.
      engine: "local" or "beam".
      beam_args: Apache Beam's options, as on a command line.
    """

    csv: tuple[str, ...] = ()
    image_dir: str | None = None
    ferplus_csv: str | None = None
    ferplus_join: Join = "row"
    image_size: int = 48
    channels: int = 1
    expression_names: tuple[str, ...] = ()
    output_dir: str
    num_shards: int = 0
    seed: int = 0
    on_bad_row: OnBadRow = "error"
    drop: tuple[DropReason, ...] = ()
    validation_fraction: float = 0.0
    overwrite: bool = False
    engine: EngineName = "local"
    beam_args: str = ""

    def __post_init__(self) -> None:
        """Checks the values, each alone and together.

        Raises:
          InputError: one is out of its range, or two do not go together; the message names them.
        """
        if bool(self.csv) == bool(self.image_dir):
            received = "both" if self.csv else "neither"
            raise InputError(f"expected either --csv or --image_dir, received {received}")
        if self.csv and (self.image_size, self.channels) != (48, 1):
            raise InputError(
                "image_size, channels: expected with --image_dir only; a CSV holds 48x48 pixels"
            )
        if self.csv and self.expression_names:
            raise InputError("expression_names: expected with --image_dir only")
        parse_expression_names(self.expression_names)
        if self.image_dir and Path(self.output_dir).resolve().is_relative_to(
            Path(self.image_dir).resolve()
        ):
            raise InputError(
                "output_dir: expected a folder outside of image_dir, whose folders are all read, "
                f"received {self.output_dir} within {self.image_dir}"
            )
        if self.image_dir and self.ferplus_csv:
            raise InputError(
                "ferplus_csv: expected with --csv only: the votes belong to the rows of FER2013's "
                "CSV"
            )
        if self.ferplus_join != "row" and not self.ferplus_csv:
            raise InputError("ferplus_join: expected with --ferplus_csv only, whose votes it joins")
        for name, known in (
            ("engine", ENGINES),
            ("on_bad_row", ON_BAD_ROW),
            ("ferplus_join", FERPLUS_JOINS),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name}: expected one of {', '.join(known)}, received {getattr(self, name)!r}"
                )
        for reason in self.drop:
            if reason not in DROP_REASONS:
                raise InputError(
                    f"drop: expected some of {', '.join(DROP_REASONS)}, received {reason!r}"
                )
        if "not_a_face" in self.drop and not self.ferplus_csv:
            raise InputError("drop: not_a_face is what FER+'s voters found; it needs --ferplus_csv")
        if self.beam_args and self.engine != "beam":
            raise InputError("beam_args: expected with --engine=beam only")
        if not 8 <= self.image_size <= 1024:
            raise InputError(f"image_size: expected 8 to 1024, received {self.image_size}")
        if self.channels not in (1, 3):
            raise InputError(f"channels: expected 1 or 3, received {self.channels}")
        if not 0 <= self.num_shards <= 99_999:
            raise InputError(f"num_shards: expected 0 to 99999, received {self.num_shards}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed: expected 0 to 2147483647, received {self.seed}")
        if not 0 <= self.validation_fraction < 1:
            raise InputError(
                "validation_fraction: expected at least 0 and less than 1, received "
                f"{self.validation_fraction}"
            )
