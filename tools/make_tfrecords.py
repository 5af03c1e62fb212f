"""Converts FER2013, or a folder of faces, into sharded TFRecords that tfds.load reads too.

    python -m tools.make_tfrecords --csv=fer2013.csv --output_dir=data
    python -m tools.make_tfrecords --csv=archive.zip --ferplus_csv=fer2013new.csv --output_dir=data
    python -m tools.make_tfrecords --image_dir=faces --output_dir=data

writes data/fer2013/1.0.0/: complete or not at all.
"""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from tqdm import tqdm

from fer_tfdata import command_line
from fer_tfdata.conversion_config import (
    DROP_REASONS,
    ENGINES,
    FERPLUS_JOINS,
    ON_BAD_ROW,
    ConversionConfig,
)
from fer_tfdata.ferplus import agree_by_chance
from fer_tfdata.sources import (
    ImageFolder,
    KaggleCsv,
    Part,
    RawBatch,
    Source,
    parse_expression_names,
)

if TYPE_CHECKING:
    from fer_tfdata.conversion import WriteReport


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags: one a field of `ConversionConfig`."""
    _define_source_flags(flag_values)
    _define_output_flags(flag_values)


def _define_source_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "csv",
        None,
        "FER2013's CSV (fer2013.csv, icml_face_data.csv, train.csv, test.csv), plain or within a "
        ".zip, .tar.gz or .gz; a member is named as archive.zip/train.csv",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "image_dir",
        ConversionConfig.image_dir,
        "A folder of PNG or JPEG files: SPLIT/EXPRESSION/... or EXPRESSION/...",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "ferplus_csv",
        ConversionConfig.ferplus_csv,
        "FER+'s votes (fer2013new.csv), joined to the CSV's rows.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "ferplus_join",
        ConversionConfig.ferplus_join,
        FERPLUS_JOINS,
        "Whether votes belong to the image of the same row, as in Kaggle's file, or to that of the "
        "row in their Image name, as in copies that leave the order of Kaggle's file.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "image_size",
        ConversionConfig.image_size,
        "Height and width that a folder's images are fitted to, their aspect kept.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "channels",
        ConversionConfig.channels,
        "1 makes a folder's images gray, 3 keeps their colours.",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "expression_names",
        [],
        "What names of folders mean that are no expression's own, as in 1=surprise,2=fear.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "on_bad_row",
        ConversionConfig.on_bad_row,
        ON_BAD_ROW,
        "What to do with a row that is not as it must be: stop, or leave it out and list it in "
        "the manifest.",
        flag_values=flag_values,
    )


def _define_output_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output_dir",
        None,
        "A TFDS data directory; fer2013/1.0.0/ is written into it.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_shards",
        ConversionConfig.num_shards,
        "Shards a split; 0 chooses by size.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "seed",
        ConversionConfig.seed,
        "Of the order in which the training images are written.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "drop",
        [],
        f"Which faults make a training image be left out: some of {', '.join(DROP_REASONS)}.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "validation_fraction",
        ConversionConfig.validation_fraction,
        "The share of the training images that becomes the validation split, for data without "
        "one; equal images stay together.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "overwrite",
        ConversionConfig.overwrite,
        "Replaces the data set that stands there, if this program wrote it.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "engine",
        ConversionConfig.engine,
        ENGINES,
        "What does the work: this process, or Apache Beam.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "beam_args",
        ConversionConfig.beam_args,
        'Apache Beam\'s options, such as "--runner=FlinkRunner --flink_master=host:8081".',
        flag_values=flag_values,
    )


def config_from_flags(flag_values: flags.FlagValues) -> ConversionConfig:
    """Returns the configuration that the flags give."""
    values = {
        field.name: flag_values[field.name].value for field in dataclasses.fields(ConversionConfig)
    }
    values["csv"] = tuple(values["csv"] or ())
    values["drop"] = tuple(values["drop"])
    values["expression_names"] = tuple(
        name for names in values["expression_names"] for name in names.split(",")
    )
    return ConversionConfig(**values)


def main(argv: Sequence[str]) -> None:
    """Converts, and prints what was written, found and left out."""
    del argv
    config = config_from_flags(flags.FLAGS)
    command_line.import_tensorflow_quietly()
    from fer_tfdata import conversion, ferplus

    source = _source(config)
    votes = None
    if config.ferplus_csv:
        votes = ferplus.read_votes(Path(config.ferplus_csv), join=config.ferplus_join)
    engine = _engine(config)
    is_local = config.engine == "local"  # of Beam's workers the stage alone is known
    with tqdm(
        unit=" rows",
        desc="converting",
        bar_format=None if is_local else "{desc}",
        disable=not sys.stderr.isatty(),
    ) as bar:
        report = conversion.convert(
            _WithProgress(source, bar) if is_local else source,
            Path(config.output_dir),
            votes=votes,
            num_shards=config.num_shards,
            seed=config.seed,
            on_bad_row=config.on_bad_row,
            drop=config.drop,
            validation_fraction=config.validation_fraction,
            overwrite=config.overwrite,
            engine=engine,
            on_stage=bar.set_description_str,
        )
    _print_report(report)


def _source(config: ConversionConfig) -> Source:
    # Beam's workers may run elsewhere in the file system.
    def path(name: str) -> Path:
        return Path(name).absolute() if config.engine == "beam" else Path(name)

    if config.image_dir:
        return ImageFolder(
            path(config.image_dir),
            config.image_size,
            config.channels,
            parse_expression_names(config.expression_names),
        )
    return KaggleCsv(tuple(path(name) for name in config.csv))


def _engine(config: ConversionConfig) -> Any:
    if config.engine == "beam":
        logging.getLogger().setLevel(logging.ERROR)  # Beam reports every step
        from fer_tfdata.beam_engine import BeamEngine

        return BeamEngine(config.beam_args)
    from fer_tfdata.engines import LOCAL

    return LOCAL


@dataclasses.dataclass(frozen=True)
class _WithProgress:
    """A source that moves a progress bar as its rows are read."""

    source: Source
    bar: Any

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.source.image_shape

    @property
    def expressions(self) -> tuple[str, ...]:
        return self.source.expressions

    def describe(self) -> Mapping[str, Any]:
        return self.source.describe()

    def parts(self, count: int) -> list["_PartWithProgress"]:
        return [_PartWithProgress(part, self.bar) for part in self.source.parts(count)]


@dataclasses.dataclass(frozen=True)
class _PartWithProgress:
    part: Part
    bar: Any

    def count_rows(self) -> int:
        return self.part.count_rows()

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        for batch in self.part.batches(first_row):
            yield batch
            self.bar.update(len(batch.rows))


def _print_report(report: "WriteReport") -> None:
    print(report.directory)
    audit, splits = report.manifest["audit"], report.manifest["splits"]
    ferplus = report.manifest["ferplus"]
    doubted = ferplus is not None and agree_by_chance(*_agreement(ferplus))
    for name, split in splits.items():
        counts = ", ".join(f"{n} {count}" for n, count in split["per_expression"].items())
        print(f"  {name}: {split['examples']} images in {len(split['shards'])} shards ({counts})")
        if split["unlabelled"]:
            print(f"    {split['unlabelled']} without a label")
        for kind, count in split["ferplus_examples"].items():
            print(f"    {count} usable with --labels={kind}")
    if ferplus:
        _print_losses(ferplus)
        _print_agreement(ferplus)
    print("Found in the source:")
    for finding in _findings(audit, doubted):
        print(f"  {finding}")
    dropped, skipped = report.manifest["rows_dropped"], report.manifest["rows_skipped"]
    if dropped:
        print(f"Dropped from train: {len(dropped)} images, listed in the manifest; what is left:")
        for name, split in splits.items():
            if name != "train":
                print(f"  {_leaks(name, split['leaked_rows'], split['near_leaked_rows'])}")
    if skipped:
        print(f"Left out: {len(skipped)} rows, which could not be used:")
        for bad in skipped[:10]:
            print(f"  {bad['place']}: {bad['reason']}")
        if len(skipped) > 10:
            print(f"  ... all of them in {report.directory / 'manifest.json'}")


def _print_losses(described: Mapping[str, Any]) -> None:
    without, of_another = (
        described[key] for key in ("rows_without_votes", "rows_with_votes_of_another_usage")
    )
    if without or of_another:
        print(
            f"FER+ has no votes on {without} rows, and those on {of_another} more are on images of "
            "another Usage, and are not taken."
        )


def _agreement(described: Mapping[str, Any]) -> tuple[int, int]:
    """Returns on how many images label and majority agree, and how many have both."""
    return described["images_where_they_agree"], described["images_with_label_and_majority"]


def _print_agreement(described: Mapping[str, Any]) -> None:
    agreeing, images = _agreement(described)
    if not images:
        return
    print(f"FER+'s majority agrees with the label on {agreeing / images:.1%} of {images} images.")
    if agree_by_chance(agreeing, images):
        other = "name" if described["join"] == "row" else "row"
        print(
            "  That is no more than chance: these votes are on other images. People agree with "
            f"FER2013's labels on about 65 %. Try --ferplus_join={other}."
        )


def _leaks(split: str, rows: Sequence[int], near: Sequence[int]) -> str:
    return f"{len(rows)} images of {split} stand in train too, {len(near)} more nearly so"


def _findings(audit: Mapping[str, Any], doubted: bool) -> Iterator[str]:
    for split, count in audit["duplicates"].items():
        if count:
            yield f"{count} images of {split} repeat an earlier one of it"
    for split, rows in audit["leaked_rows"].items():
        near = audit["near_leaked_rows"][split]
        if rows or near:
            yield _leaks(split, rows, near)
    images = sum(len(group) for group in audit["conflicting_groups"])
    yield f"{len(audit['conflicting_groups'])} images ({images} rows) have conflicting labels"
    yield f"{len(audit['near_duplicate_pairs'])} pairs of images are nearly the same"
    yield (
        f"{len(audit['flat_rows'])} images are of one colour, "
        f"{len(audit['almost_flat_rows'])} nearly so"
    )
    if audit["not_a_face_rows"] is not None:
        found = f"{len(audit['not_a_face_rows'])} images are no face to FER+'s voters"
        yield f"{found}, whose votes are on other images" if doubted else found
    for split, ratio in audit["imbalance"].items():
        if ratio is not None:
            yield f"in {split}, the most frequent expression is {ratio:.3g} times the rarest"


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
