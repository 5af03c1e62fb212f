"""An inspection as one page of HTML that needs no network, no scripts and no other file."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from fer_tfdata import page
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, NO_LABEL
from fer_tfdata.inspection import (
    IMAGES_OF_A_GROUP,
    LISTED_ROWS,
    Agreement,
    Contents,
    DroppedRow,
    Example,
    Fault,
    Inspection,
    PixelStatistics,
    SourceFile,
)
from fer_tfdata.markup import Markup, element, join, table
from fer_tfdata.page import Section, counted, face, faces, legend, shaded_cell
from fer_tfdata.records import Split
from fer_tfdata.sources import BadRow

_HISTOGRAM_BINS: Final = 64

_STYLE: Final = """
:root { --train: #0072b2; --validation: #d98200; --test: #00876a; }
@media (prefers-color-scheme: dark) {
  :root { --train: #56b4e9; --validation: #f0a830; --test: #2fc39c; } }
.train { --colour: var(--train); }
.validation { --colour: var(--validation); }
.test { --colour: var(--test); }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .55rem .7rem;
  align-items: center; font-size: .9rem; }
.bars i { display: block; height: 7px; margin: 1px 0; border-radius: 0 2px 2px 0;
  background: var(--colour); }
svg { display: block; width: 100%; height: 12rem; border-bottom: 1px solid var(--line); }
polyline { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.axis { display: flex; justify-content: space-between; color: var(--faint); font-size: .8rem; }
.means { --face: 144px; }
.groups { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .6rem;
  align-items: flex-start; }
.groups > li { border: 1px solid var(--line); border-radius: 6px; padding: .4rem;
  max-width: 100%; }
.groups p { margin: 0 0 .3rem; font-size: .85rem; max-width: 30rem; }
.groups .note { margin: 0; font-size: .75rem; }
.groups .faces { margin: 0; gap: .4rem; }
.texts { --face: 48px; }
.texts .face { display: flex; width: auto; gap: .5rem; }
.texts .face img { width: var(--face); height: var(--face); }
@media (max-width: 40rem) { .means { --face: 76px; } .groups { gap: .4rem; } }
@media print { .groups > li { break-inside: avoid; } }
"""


class Headline(NamedTuple):
    """What is worth knowing first, and the section that says more."""

    text: str
    section: str


def render(inspection: Inspection) -> str:
    """Returns the page."""
    title = f"Inspection of {', '.join(source.name for source in inspection.contents.sources)}"
    return page.render(title, _overview(inspection), _sections(inspection), style=_STYLE)


def headlines(inspection: Inspection) -> list[Headline]:
    """Returns what is worth knowing first: what was done about the faults, then the gravest."""
    return [
        *_headlines_of_dropping(inspection.contents.dropped),
        *_headlines_of_votes(inspection.agreement),
        *_headlines_of_leaks(inspection.contents.splits),
        *_headlines_of_faults(inspection.contents),
        *_headlines_of_rows(inspection.contents),
    ] or [Headline("Nothing wrong was found", "duplicates")]


def _headlines_of_votes(agreement: Agreement | None) -> Iterator[Headline]:
    if agreement is not None and agreement.is_by_chance:
        yield Headline(
            f"FER+'s votes agree with {agreement.share:.1%} of the labels: they may belong to "
            "other rows",
            "ferplus",
        )


def _headlines_of_leaks(splits: Sequence[Split]) -> Iterator[Headline]:
    for split in splits:
        if split.leaked_rows:
            share = len(split.leaked_rows) / split.examples
            count = counted(len(split.leaked_rows), "image")
            yield Headline(f"{count} of {split.name} ({share:.1%}) also in train", "duplicates")
        if split.near_leaked_rows:
            count = counted(len(split.near_leaked_rows), "image")
            yield Headline(
                f"{count} of {split.name} nearly equal to one of train", "near-duplicates"
            )


def _headlines_of_faults(contents: Contents) -> Iterator[Headline]:
    faults, has_dropped = contents.faults, bool(contents.dropped)
    for fault, text, section in (
        (faults.conflicts, "that repeat with other labels", "conflicts"),
        (faults.not_a_face, "without a face, as FER+'s voters say", "no-face"),
        (faults.flat, "of one colour", "flat"),
        (faults.almost_flat, "of nearly one colour", "flat"),
    ):
        if fault is not None and fault.rows:
            yield Headline(_found(text, fault.rows, fault.kept if has_dropped else None), section)
    for name, repeated in faults.repeated.items():
        if repeated:
            kept = repeated - (faults.repeated_dropped if name == "train" else 0)
            text = f"of {name} that repeat an earlier one of it"
            yield Headline(_found(text, repeated, kept if has_dropped else None), "duplicates")


def _found(text: str, count: int, kept: int | None) -> str:
    """Returns how many images have a fault, and, where rows were dropped, how many still do."""
    if kept is None:
        return f"{counted(count, 'image')} {text}"
    return f"images {text}: {count:,} in the source, {kept:,} still in the data"


def _headlines_of_dropping(dropped: Sequence[DroppedRow]) -> Iterator[Headline]:
    if dropped:
        yield Headline(f"{counted(len(dropped), 'row')} dropped from train", "dropped")


def _headlines_of_rows(contents: Contents) -> Iterator[Headline]:
    for split in contents.splits:
        if split.unlabelled:
            count = counted(split.unlabelled, "image")
            yield Headline(f"{count} of {split.name} without a label", "expressions")
    if contents.skipped:
        yield Headline(f"{counted(len(contents.skipped), 'row')} of no use", "skipped")


# The head of the page.


def _overview(inspection: Inspection) -> Iterator[Markup]:
    facts = _facts(inspection.contents)
    terms = (join(element("dt", name), element("dd", fact)) for name, fact in facts.items())
    yield element("dl", *terms)
    yield _table_of_splits(inspection.contents.splits)
    yield element("h2", "At a glance")
    lines = headlines(inspection)
    links = (element("a", line.text, href=f"#{line.section}") for line in lines)
    yield element("ul", *(element("li", link) for link in links), class_="glance")


def _facts(contents: Contents) -> dict[str, str]:
    height, width, channels = contents.schema.image_shape
    total = sum(split.examples for split in contents.splits)
    facts = {
        "Source": join(*(element("div", _source(source)) for source in contents.sources)),
        "FER+ votes": _source(contents.ferplus) if contents.ferplus else "none",
        "Images": (
            f"{total:,} of {height}x{width} pixels, {'gray' if channels == 1 else 'in colour'}"
        ),
        "Expressions": ", ".join(contents.schema.expressions),
    }
    if contents.validation_fraction:
        facts["Validation"] = f"{contents.validation_fraction:.1%} of the training images"
    return facts


def _source(source: SourceFile) -> Markup:
    files = "" if source.files == 1 else f"{counted(source.files, 'file')}, "
    return join(
        f"{source.name}, {files}{_size(source.bytes)}, SHA-256 ", element("code", source.sha256)
    )


def _table_of_splits(splits: Sequence[Split]) -> Markup:
    rows = {
        "images": lambda split: f"{split.examples:,}",
        "labelled": lambda split: f"{split.examples - split.unlabelled:,}",
        "also in train": lambda split: _unless_train(split.name, len(split.leaked_rows)),
        "nearly so": lambda split: _unless_train(split.name, len(split.near_leaked_rows)),
        "shards": lambda split: f"{len(split.shards):,}",
        "size": lambda split: _size(sum(shard.bytes for shard in split.shards)),
    }
    return table(
        ["", *(split.name for split in splits)],
        [[name, *map(cell, splits)] for name, cell in rows.items()],
        caption="What was written",
    )


def _unless_train(split: str, count: int) -> str:
    return "" if split == "train" else f"{count:,}"


# The sections.


def _sections(inspection: Inspection) -> list[Section]:
    return [
        Section("expressions", "Expressions", _expressions(inspection.contents.splits)),
        Section("ferplus", "FER+ votes", _ferplus(inspection)),
        Section("samples", "Samples", _samples(inspection)),
        Section("means", "Mean faces", _mean_faces(inspection)),
        Section("pixels", "Pixels", _pixels(inspection)),
        Section("duplicates", "Duplicates", _duplicates(inspection)),
        Section("near-duplicates", "Near-duplicates", _near_duplicates(inspection)),
        Section("conflicts", "Conflicting labels", _conflicts(inspection)),
        Section("flat", "Flat images", _flat(inspection)),
        Section("no-face", "No faces", _no_faces(inspection)),
        Section("dropped", "Dropped rows", _dropped(inspection)),
        Section("skipped", "Skipped rows", _skipped(inspection.contents.skipped)),
    ]


def _expressions(splits: Sequence[Split]) -> Iterator[Markup]:
    counts = {split.name: dict(split.per_expression) for split in splits}
    if any(split.unlabelled for split in splits):
        for split in splits:
            counts[split.name]["no label"] = split.unlabelled
    parts = [_table_of_counts(counts, "Images of each expression, and their share of the split")]
    labelled = {
        split.name: split.per_expression for split in splits if split.examples > split.unlabelled
    }
    if labelled:
        parts.append(_bar_chart(labelled, "Shares of the labelled images of each split"))
    yield element("div", *parts, class_="beside")
    for split in splits:
        yield element("p", f"{split.name}: {_imbalance(split.per_expression)}.")


def _imbalance(counts: Mapping[str, int]) -> str:
    if not any(counts.values()):
        return "no image has a label"
    missing = [name for name, count in counts.items() if not count]
    if missing:
        return f"there is no image of {', '.join(missing)}"
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] == counts[least]:
        return "every expression is as frequent as any other"
    ratio = f"{counts[most] / counts[least]:.3g}"
    return f"the most frequent expression ({most}) is {ratio} times the rarest ({least})"


def _ferplus(inspection: Inspection) -> Iterator[Markup]:
    if inspection.agreement is None:
        yield element("p", "No votes were given when the data were converted.")
        return
    counts, usable = {}, {}
    for split in inspection.contents.splits:
        majorities = inspection.contents.majorities[split.name]
        rest = split.examples - sum(majorities.values())
        counts[split.name] = {**majorities, "no majority": rest}
        usable[split.name] = split.ferplus_examples
    yield element(
        "div",
        _table_of_counts(counts, "What the voters' majority chose, and its share of the split"),
        _table_of_counts(
            usable,
            "Images with labels of each kind, and their share of the split",
            {split.name: split.examples for split in inspection.contents.splits},
        ),
        class_="beside",
    )
    yield from _agreement(inspection, inspection.agreement)


def _agreement(inspection: Inspection, agreement: Agreement) -> Iterator[Markup]:
    total, agreeing = agreement.total, agreement.agreeing
    if not total:
        return
    names = inspection.contents.schema.expressions
    yield element("h3", "Labels and majorities")
    yield element(
        "p",
        f"Label and majority are the same on {agreeing:,} of the {total:,} images that have both "
        f"({agreeing / total:.1%}).{_doubt(agreement)}",
    )
    yield table(
        ["", *EIGHT_EXPRESSIONS],
        [
            [name, *(shaded_cell(f"{count:,}", count / max(row.sum(), 1)) for count in row)]
            for name, row in zip(names, agreement.counts, strict=True)
        ],
        caption="Images of all splits by label (rows) and majority (columns)",
        class_="shaded",
    )
    if total > agreeing:
        shown = _shown(len(agreement.sample), total - agreeing, "image")
        yield element("p", f"They differ on {shown}")
        yield faces(
            _face(inspection, example, f"{names[example.label]} → {_majority(example)}")
            for example in agreement.sample
        )


def _doubt(agreement: Agreement) -> str:
    if not agreement.is_by_chance:
        return ""
    return " That is so little that the votes may belong to other rows."


def _majority(example: Example) -> str:
    return EIGHT_EXPRESSIONS[example.majority]


def _samples(inspection: Inspection) -> Iterator[Markup]:
    yield element("p", f"Random images of {inspection.sampled_split}, each above its row.")
    for label, examples in inspection.samples.items():
        yield element("h3", _label(inspection, label))
        yield faces(_face(inspection, example) for example in examples)


def _mean_faces(inspection: Inspection) -> Iterator[Markup]:
    yield element("p", f"The mean of all images of {inspection.sampled_split} with one label.")
    figures = []
    for label, mean in inspection.mean_faces.items():
        name = _label(inspection, label)
        figures.append(face(mean, name, alt=f"mean face: {name}"))
    yield element("div", *figures, class_="faces means")


def _pixels(inspection: Inspection) -> Iterator[Markup]:
    pixels = inspection.pixels
    cells = [_pixel_cells(statistics) for statistics in pixels.values()]
    channels = "" if inspection.contents.schema.image_shape[2] == 1 else "; red, green, blue"
    values = table(
        ["", *pixels],
        [[name, *(of_split[name] for of_split in cells)] for name in cells[0]],
        caption=f"Values from 0 (black) to 255 (white){channels}",
    )
    yield element("div", values, _histogram_chart(pixels), class_="beside")


def _pixel_cells(statistics: PixelStatistics) -> dict[str, str]:
    mean, std = statistics.mean.tolist(), statistics.std.tolist()
    black, white = statistics.shares[[0, 255]].tolist()
    return {
        "mean": ", ".join(f"{value:.2f}" for value in mean),
        "std": ", ".join(f"{value:.2f}" for value in std),
        "mean / 255": ", ".join(f"{value / 255:.4f}" for value in mean),
        "std / 255": ", ".join(f"{value / 255:.4f}" for value in std),
        "black": f"{black:.2%}",
        "white": f"{white:.2%}",
    }


def _duplicates(inspection: Inspection) -> Iterator[Markup]:
    faults = inspection.contents.faults
    names = [split.name for split in inspection.contents.splits]
    yield element("p", "Images that are equal byte for byte.")
    yield table(
        ["", *names],
        [
            ["repeat an earlier one of the split", *(f"{faults.repeated[n]:,}" for n in names)],
            [
                "also in train",
                *(_unless_train(n, faults.leaked.get(n, 0)) for n in names),
            ],
        ],
        caption="Images of the source",
    )
    yield element("h3", "In train and in another split")
    yield from _groups(inspection, faults.leaks)
    yield element("h3", "Other repeats")
    yield from _groups(inspection, faults.repeats)


def _near_duplicates(inspection: Inspection) -> Iterator[Markup]:
    yield element(
        "p",
        "Pairs of images that differ by little, as other crops and copies do, with the mean "
        "difference of their pixels; those that stand in train and in another split come first.",
    )
    yield from _groups(inspection, inspection.contents.faults.near_duplicates, "pair", _difference)


def _conflicts(inspection: Inspection) -> Iterator[Markup]:
    yield element("p", "Equal images that stand in the source with different labels.")
    yield from _groups(inspection, inspection.contents.faults.conflicts, title=_labels)


def _flat(inspection: Inspection) -> Iterator[Markup]:
    yield element("h3", "Of one colour")
    yield from _single_images(inspection, inspection.contents.faults.flat)
    yield element("h3", "Of nearly one colour")
    yield from _single_images(inspection, inspection.contents.faults.almost_flat)


def _no_faces(inspection: Inspection) -> Iterator[Markup]:
    fault = inspection.contents.faults.not_a_face
    if fault is None:
        yield element("p", "Not known: no FER+ votes were given.")
    else:
        yield element("p", "Images that FER+'s voters found to be no face.")
        yield from _single_images(inspection, fault)


def _dropped(inspection: Inspection) -> Iterator[Markup]:
    dropped = inspection.contents.dropped
    yield element("p", _shown(min(len(dropped), LISTED_ROWS), len(dropped), "row"))
    if dropped:
        yield element(
            "p",
            "These rows were left out of train for their faults, so they are not in the records; "
            "where an equal image was kept, it is shown.",
        )
        yield table(
            ["row", "reason", "kept"],
            [
                [f"{row.row}", row.reason, _kept_twin(inspection, row)]
                for row in dropped[:LISTED_ROWS]
            ],
            caption="Dropped rows",
            class_="texts",
        )


def _kept_twin(inspection: Inspection, dropped: DroppedRow) -> Markup:
    example = None if dropped.twin is None else inspection.examples.get(dropped.twin)
    if example is None:
        return join("none")
    return _placed_face(inspection, example)


def _skipped(skipped: Sequence[BadRow]) -> Iterator[Markup]:
    yield element("p", _shown(min(len(skipped), LISTED_ROWS), len(skipped), "row"))
    if skipped:
        yield table(
            ["row", "place", "reason"],
            [[f"{row.row}", row.place, row.reason] for row in skipped[:LISTED_ROWS]],
            caption="Rows that could not be used",
            class_="texts",
        )


# What the sections are made of.


def _groups(
    inspection: Inspection,
    fault: Fault,
    noun: str = "group",
    title: Callable[[Inspection, Sequence[Example]], str] = lambda inspection, examples: "",
) -> Iterator[Markup]:
    """Yields how many groups there are, and each of those shown, its images side by side."""
    rows = f" ({counted(fault.rows, 'image')}{_left(fault)})"
    yield element("p", _shown(len(fault.shown), fault.groups, noun, rows))
    groups = (element("li", *_group(inspection, group, title)) for group in fault.shown)
    if fault.shown:
        yield element("ul", *groups, class_="groups")


def _group(
    inspection: Inspection,
    rows: Sequence[int],
    title: Callable[[Inspection, Sequence[Example]], str],
) -> Iterator[Markup]:
    shown = rows[:IMAGES_OF_A_GROUP]
    examples = [inspection.examples[row] for row in shown if row in inspection.examples]
    if text := title(inspection, examples):
        yield element("p", text)
    yield from _images_of(inspection, shown)
    if len(rows) > len(shown):
        yield element("p", f"and {counted(len(rows) - len(shown), 'row')} more", class_="note")


def _images_of(inspection: Inspection, rows: Sequence[int]) -> Iterator[Markup]:
    """Yields the images of the rows that are in the records, and names the others."""
    examples = [inspection.examples[row] for row in rows if row in inspection.examples]
    dropped = [str(row) for row in rows if row not in inspection.examples]
    if examples:
        yield faces(_placed_face(inspection, example) for example in examples)
    if dropped:
        noun = "row" if len(dropped) == 1 else "rows"
        yield element("p", f"dropped: {noun} {', '.join(dropped)}", class_="note")


def _labels(inspection: Inspection, examples: Sequence[Example]) -> str:
    labels = sorted({example.label for example in examples} - {NO_LABEL})
    if len(labels) < 2:  # the others were dropped
        return ""
    return " or ".join(_label(inspection, label) for label in labels)


def _difference(inspection: Inspection, examples: Sequence[Example]) -> str:
    del inspection
    if len(examples) < 2:
        return ""
    first, second = (example.image.astype(np.int64) for example in examples)
    return f"difference {np.abs(first - second).mean():.1f}"


def _single_images(inspection: Inspection, fault: Fault) -> Iterator[Markup]:
    yield element("p", _shown(len(fault.shown), fault.groups, "image", _left(fault)))
    yield from _images_of(inspection, [row for (row,) in fault.shown])


def _left(fault: Fault) -> str:
    return f", {fault.kept:,} still in the data" if fault.kept < fault.rows else ""


def _placed_face(inspection: Inspection, example: Example) -> Markup:
    return _face(inspection, example, example.split, _label(inspection, example.label))


def _face(inspection: Inspection, example: Example, *caption: str) -> Markup:
    row, label = f"row {example.row}", _label(inspection, example.label)
    description = f"{row}, {example.split}, {label}"
    return face(example.image, row, *caption, alt=description)


def _label(inspection: Inspection, label: int) -> str:
    return "no label" if label == NO_LABEL else inspection.contents.schema.expressions[label]


def _table_of_counts(
    counts: Mapping[str, Mapping[str, int]], caption: str, totals: Mapping[str, int] | None = None
) -> Markup:
    """Returns counts and shares by name, a column for each split.

    Args:
      counts: per split, per name.
      caption: what they are.
      totals: what the shares are of, per split; without them, of the sum of the counts.
    """
    sums = totals or {split: sum(of_names.values()) for split, of_names in counts.items()}
    names = next(iter(counts.values()))
    rows = [
        [name, *(_count_and_share(of[name], sums[split]) for split, of in counts.items())]
        for name in names
    ]
    if totals is None:
        rows.append(["all", *(f"{sums[split]:,}" for split in counts)])
    return table(["", *counts], rows, caption=caption)


def _count_and_share(count: int, total: int) -> Markup:
    share = f"{count / total:.1%}" if total else ""
    return join(f"{count:,} ", element("span", share, class_="share"))


def _bar_chart(counts: Mapping[str, Mapping[str, int]], caption: str) -> Markup:
    """Returns a bar a split for each name, as long as the share of the split."""
    shares = {
        split: {name: count / sum(of.values()) for name, count in of.items()}
        for split, of in counts.items()
    }
    longest = max(max(of.values()) for of in shares.values())
    bars = [
        join(
            element("span", name),
            element(
                "div",
                *(
                    element("i", style=f"width:{of[name] / longest:.1%}", class_=split)
                    for split, of in shares.items()
                ),
            ),
        )
        for name in next(iter(shares.values()))
    ]
    chart = element("div", *bars, class_="bars", role="img", aria_label=f"{caption}, as above")
    return _chart(caption, shares, chart)


def _histogram_chart(pixels: Mapping[str, PixelStatistics]) -> Markup:
    """Returns a line a split: which share of its pixels has which value."""
    bins = {
        split: statistics.shares.reshape(_HISTOGRAM_BINS, -1).sum(axis=1)
        for split, statistics in pixels.items()
    }
    highest = max(float(shares.max()) for shares in bins.values())
    lines = [
        element(
            "polyline",
            points=" ".join(
                f"{index + 0.5},{100 - 98 * share / highest:.1f}"
                for index, share in enumerate(shares.tolist())
            ),
            class_=split,
        )
        for split, shares in bins.items()
    ]
    caption = f"Shares of the pixels' values, in steps of {256 // _HISTOGRAM_BINS}"
    chart = element(
        "svg",
        *lines,
        viewBox=f"0 0 {_HISTOGRAM_BINS} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{caption}; the highest is {highest:.1%}",
    )
    axis = element("div", *(element("span", f"{value}") for value in _AXIS), class_="axis")
    return _chart(caption, bins, element("div", f"{highest:.1%}", class_="axis"), chart, axis)


_AXIS: Final = (0, 64, 128, 192, 255)


def _chart(caption: str, splits: Collection[str], *content: Markup) -> Markup:
    return element(
        "figure",
        element("figcaption", caption),
        legend(splits, splits),
        *content,
        class_="chart",
    )


def _shown(shown: int, total: int, noun: str, more: str = "") -> str:
    """Returns "None.", "3 images." or "1,234 images; 24 of them are shown."."""
    if not total:
        return "None."
    if shown == total:
        return f"{counted(total, noun)}{more}."
    return f"{counted(total, noun)}{more}; {shown} of them are shown."


def _size(num_bytes: int) -> str:
    for unit, size in (("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes} bytes"
