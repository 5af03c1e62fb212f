"""A source to a data directory: sharded TFRecords, TFDS's metadata, the manifest.

The work falls into tasks that know nothing of each other, so that one process or a cluster can do
them (`engines`) and the bytes are the same:

1. Each part of the source is read, checked and serialized into a spool, one file a split, beside
   an index of the records and the part's table for the audit.
2. The audit says which rows of `train` are dropped.  With the counts known, every record's shard
   and place are known too.
3. Each shard gathers its records from the spools.

Memory is bounded by a block of rows, a pass of the audit and a pass of the plan, beside a byte an
image, the paths of an image folder (about 110 bytes a file) and what the findings take: what is
wrong with a row is named in the manifest.
The directory appears under its name when it is complete.
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from fer_tfdata import atomic, audit, ferplus, tfds_metadata
from fer_tfdata.audit import DropReason
from fer_tfdata.engines import LOCAL, Engine
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import NO_LABEL
from fer_tfdata.records import (
    MANIFEST,
    NAME,
    SCHEMA_VERSION,
    VERSION,
    WRITTEN_BY,
    Schema,
    read_manifest,
    sha256_of,
)
from fer_tfdata.shards import Contents, Plan, write_splits
from fer_tfdata.sources import OnBadRow, Source
from fer_tfdata.spools import Spool, SpoolOptions, fates_of, write_spools

_SPOOL: Final = "spool"  # a directory within the unfinished one


@dataclasses.dataclass(frozen=True)
class WriteReport:
    """What a conversion wrote and left out."""

    directory: Path
    manifest: Mapping[str, Any]


def convert(
    source: Source,
    data_dir: Path,
    *,
    votes: ferplus.Votes | None = None,
    num_shards: int = 0,
    seed: int = 0,
    on_bad_row: OnBadRow = "error",
    drop: Sequence[DropReason] = (),
    validation_fraction: float = 0.0,
    overwrite: bool = False,
    engine: Engine = LOCAL,
    on_stage: Callable[[str], object] = lambda stage: None,
) -> WriteReport:
    """Writes `DIR/fer2013/1.0.0/`; the same source and arguments give the same bytes.

    The directory appears under its name when it is complete.  Whatever stops the writing before
    leaves at most a hidden directory, which the next call clears away.

    Args:
      source: what is converted.
      data_dir: DIR, a TFDS data directory; made where it is missing.
      votes: FER+ votes, joined as they say.
      num_shards: shards a split; 0 chooses by size.
      seed: of the order in which `train` is written.  A source may be sorted by expression, and
        what streams from the shards can shuffle but a window of them; the other splits keep the
        source's order.
      on_bad_row: "error" stops at the first row that is not as it must be; "skip" leaves it out
        and lists it in the manifest.
      drop: which faults make a row of `train` be left out.
      validation_fraction: of the training images of a source without validation images, the share
        that becomes `validation`.  Chosen by the image's digest, so that equal images are never
        on both sides.
      overwrite: replaces a directory that this function wrote.
      engine: what runs the tasks; it does not show in the bytes.
      on_stage: is told what is done next, of each of three stages that may take long.

    Raises:
      InputError: the directory exists (and `overwrite` is off, or it holds anything that was not
        written here), another process is writing it, or the source or the votes are not as they
        must be.
    """
    final = data_dir / NAME / VERSION
    with atomic.removing_empty_parents(final), atomic.exclusive_directory(final) as (work, publish):
        _check_replaceable(final, overwrite)
        work = work.resolve()  # what workers elsewhere go by
        spool_dir = work / _SPOOL
        spool_dir.mkdir()
        schema = Schema(source.image_shape, source.expressions, has_votes=votes is not None)
        options = SpoolOptions(spool_dir, schema, votes, on_bad_row, validation_fraction)
        with ThreadPoolExecutor(max_workers=1) as pool:
            # A checksum takes a third of the parsing's time, and runs on another core.
            description = pool.submit(source.describe)
            on_stage("reading")
            spools = write_spools(source, options, engine)
        on_stage("searching for duplicates")
        findings = audit.report(
            [spool.table for spool in spools],
            spool_dir,
            num_expressions=len(schema.expressions),
            votes=schema.has_votes,
        )
        dropped = findings.rows_to_drop(drop)
        leaked_rows = findings.leaked_rows_without(dropped)
        near_leaked_rows = findings.near_leaked_rows_without(dropped)
        plan = Plan(spools, frozenset(dropped), seed, num_shards, spool_dir)
        on_stage("writing")
        splits = write_splits(plan, work, engine)
        _check_splits(splits, drop, validation_fraction)
        if "not_a_face" in drop:
            _check_agreement([contents for contents, _ in splits.values()])
        manifest = {
            "written_by": WRITTEN_BY,
            "schema_version": SCHEMA_VERSION,
            "source": description.result(),
            "ferplus": _describe_votes(
                votes, spools, [contents for contents, _ in splits.values()]
            ),
            "image_shape": list(schema.image_shape),
            "expressions": list(schema.expressions),
            "seed": seed,
            "drop": sorted(set(drop)),
            "validation_fraction": validation_fraction,
            "splits": {
                name: {
                    **contents.to_json(schema),
                    "leaked_rows": leaked_rows.get(name, []),
                    "near_leaked_rows": near_leaked_rows.get(name, []),
                    "shards": [dataclasses.asdict(shard) for shard in shards],
                }
                for name, (contents, shards) in splits.items()
            },
            "audit": findings.audit.to_json(),
            "rows_skipped": [dataclasses.asdict(bad) for spool in spools for bad in spool.bad_rows],
            "rows_dropped": [
                {"row": row, "split": "train", "reason": ", ".join(reasons)}
                for row, reasons in dropped.items()
            ],
        }
        shutil.rmtree(spool_dir)
        tfds_metadata.write_metadata(work, schema, manifest)
        with (work / MANIFEST).open("w", encoding="utf-8") as manifest_file:
            manifest_file.writelines(itertools.chain(_as_text(manifest), "\n"))
        for file in sorted(work.iterdir()):
            atomic.sync(file)
        atomic.sync(work)
        publish()
    return WriteReport(directory=final, manifest=manifest)


def _check_splits(
    splits: Mapping[str, Any], drop: Sequence[DropReason], validation_fraction: float
) -> None:
    if not splits:
        raise InputError(
            f"drop: expected images that are kept, received none: all of them have one of the "
            f"faults {', '.join(drop)}"
        )
    if validation_fraction and not {"train", "validation"} <= set(splits):
        dropped = f", with drop={','.join(drop)}" if drop else ""
        raise InputError(
            f"validation_fraction{', drop' if drop else ''}: expected what leaves images on both "
            f"sides, received a share of {validation_fraction}{dropped}, which leaves them in "
            f"{', '.join(splits)} alone"
        )


def _check_agreement(splits: Sequence[Contents]) -> None:
    labelled = sum(contents.examples - contents.labels[NO_LABEL] for contents in splits)
    comparable = sum(contents.comparable for contents in splits)
    agreeing = sum(contents.agreeing for contents in splits)
    # What has no labels is not in `train`, and nothing of it is dropped.
    if labelled and (not comparable or ferplus.agree_by_chance(agreeing, comparable)):
        raise InputError(
            f"drop: expected votes on these images for not_a_face, received votes whose majority "
            f"is the label on {agreeing} of {comparable} images, no more than chance; see "
            "--ferplus_join"
        )


def _describe_votes(
    votes: ferplus.Votes | None, spools: Sequence[Spool], splits: Sequence[Contents]
) -> dict[str, Any] | None:
    if votes is None:
        return None
    fates = fates_of(spools)
    return {
        "file": votes.path.name,
        "bytes": votes.path.stat().st_size,
        "sha256": sha256_of(votes.path),
        "join": votes.join,
        "rows_without_votes": fates["no votes"],
        "rows_with_votes_of_another_usage": fates["other usage"],
        "images_with_label_and_majority": sum(contents.comparable for contents in splits),
        "images_where_they_agree": sum(contents.agreeing for contents in splits),
    }


def _as_text(value: Any, indent: str = "") -> Iterator[str]:
    """Yields JSON, a line for each value, and for each list of numbers: there may be very many."""
    if isinstance(value, dict) and value:
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else ''}\n{indent}  {json.dumps(key)}: "
            yield from _as_text(item, f"{indent}  ")
        yield f"\n{indent}}}"
    elif isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            yield f"[ {json.dumps(value)[1:-1]} ]"
            return
        yield "["
        for number, item in enumerate(value):
            yield f"{',' if number else ''}\n{indent}  "
            yield from _as_text(item, f"{indent}  ")
        yield f"\n{indent}]"
    else:
        yield json.dumps(value)


def _check_replaceable(final: Path, overwrite: bool) -> None:
    if not final.exists():
        return
    if not overwrite:
        raise InputError(f"{final}: exists already; replace it with --overwrite")
    try:
        manifest = read_manifest(final, any_version=True)
        ours = {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]}
    except (InputError, AttributeError, KeyError, TypeError):
        raise InputError(
            f"{final}: expected a directory that this program wrote, received one without its "
            f"{MANIFEST}; --overwrite leaves such a directory alone"
        ) from None
    foreign = sorted(
        {path.name for path in final.iterdir()} - ours - {MANIFEST, *tfds_metadata.FILES}
    )
    if foreign:
        raise InputError(
            f"{final}: holds files that this program did not write ({', '.join(foreign[:3])}); "
            "move them away before --overwrite"
        )
