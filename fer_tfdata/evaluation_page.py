"""A report on models as one page of HTML that needs no network, no scripts and no other file."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from fer_tfdata import calibration, ferplus, labelling, page, selective
from fer_tfdata.calibration import Reliability
from fer_tfdata.comparison import Comparison
from fer_tfdata.evaluation_report import Mistake, ModelReport, Report
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, NO_LABEL
from fer_tfdata.markup import Markup, element, join, table
from fer_tfdata.page import Section, counted, face, faces, legend, shaded_cell
from fer_tfdata.selective import RiskCoverage

_STYLE: Final = """
:root { --face: 108px; --right: #00876a; --wrong: #c2410c;
  --colour-0: #0072b2; --colour-1: #d98200; --colour-2: #00876a; --colour-3: #b0569a;
  --colour-4: #8a6d3b; --colour-5: #5d636b; }
@media (prefers-color-scheme: dark) { :root { --right: #2fc39c; --wrong: #fb923c;
  --colour-0: #56b4e9; --colour-1: #f0a830; --colour-2: #2fc39c; --colour-3: #e08fc8;
  --colour-4: #c9a86a; --colour-5: #a2a9b3; } }
.series-0 { --colour: var(--colour-0); }
.series-1 { --colour: var(--colour-1); }
.series-2 { --colour: var(--colour-2); }
.series-3 { --colour: var(--colour-3); }
.series-4 { --colour: var(--colour-4); }
.series-5 { --colour: var(--colour-5); }
.accuracy { --colour: var(--colour-0); }
.over, .chosen { --colour: var(--wrong); }
.under, .true { --colour: var(--right); }
.share { display: block; font-weight: 400; white-space: nowrap; }
.warning { border-left: 4px solid var(--wrong); padding: .3rem .8rem; background: var(--raised); }
.headlines td { font-weight: 600; vertical-align: top; }
.headlines thead th, .headlines tbody th { vertical-align: top; }
.matrix td { min-width: 3.2rem; }
.names thead th { max-width: 9rem; }
.plot { display: block; width: 100%; height: auto; max-width: 30rem; overflow: visible; }
.plot text { font-size: 10px; fill: var(--faint); }
.plot .grid { stroke: var(--line); stroke-width: 1; }
.plot .diagonal { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 4 3; }
.plot rect { fill: var(--colour); }
.plot .over, .plot .under { fill-opacity: .5; }
.plot .amount { fill: var(--faint); fill-opacity: .6; }
.plot polyline { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round; }
.mistake { width: 11.5rem; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
.mistake .face { display: flex; gap: .6rem; width: auto; margin-bottom: .4rem; }
.mistake .face img { width: 64px; height: 64px; }
.answers { display: grid; grid-template-columns: 4.2rem 1fr 2.2rem; gap: .15rem .4rem;
  align-items: center; font-size: .75rem; font-variant-numeric: tabular-nums; }
.answers i { display: block; height: 7px; border-radius: 0 2px 2px 0; background: var(--line); }
.answers .chosen, .answers .true { background: var(--colour); }
.answers span:nth-child(3n) { text-align: right; }
@media (max-width: 40rem) {
  .headlines tbody th { max-width: 6.5rem; }
  .headlines tbody th .share { white-space: normal; }
  .matrix td { min-width: 0; padding: .3rem .2rem; }
  .matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
  .mistake { width: calc(50% - .25rem); }
  .mistake .face { gap: .4rem; }
  .mistake .face img { width: 54px; height: 54px; }
  .answers { grid-template-columns: 3.8rem 1fr 1.9rem; }
}
@media print { .mistake { break-inside: avoid; } }
"""

_SERIES: Final = 6
_SHOWN_PROBABILITIES: Final = 3
_POINTS: Final = 200  # of a curve: more than its pixels tell apart

_LABELS: Final = {
    ferplus.OWN_LABELS: "the data set's own",
    "ferplus_majority": "FER+'s majority",
}
_AVERAGING: Final = {
    "none": "none: each image as it is",
    "flip": "over each image and its mirror image",
    "crops": "over ten crops of each image",
}
_SPLITS: Final = {
    "validation": "A run's epoch is chosen on validation, which flatters its figures a little.",
    "test": "Whatever was chosen by figures on this split makes them flatter.",
}


def render(report: Report) -> str:
    """Returns the page."""
    several = len(report.models) > 1
    whose = counted(len(report.models), "model") if several else report.models[0].title
    title = f"Evaluation of {whose} on {report.split.name}"
    return page.render(title, _overview(report), _sections(report), style=_STYLE)


def _sections(report: Report) -> list[Section]:
    sections = [
        Section("comparison", "Comparison", _comparison(report)),
        Section("expressions", "Expressions", _expressions(report.models)),
        Section("confusion", "Confusion matrix", _confusion(report.models)),
        Section("calibration", "Calibration", _calibration(report)),
        Section("selective", "When it may decline", _selective(report.models)),
        Section("ferplus", "FER+ votes", _ferplus(report.models)),
        Section("mistakes", "Most confident mistakes", _mistakes(report)),
    ]
    return sections if report.comparisons else sections[1:]


# The head of the page.


def _overview(report: Report) -> Iterator[Markup]:
    facts = {
        "Models" if len(report.models) > 1 else "Model": join(
            *(element("div", _described(model)) for model in report.models)
        ),
        "Images": _measured(report),
        "Labels": _LABELS[report.labels],
        "Averaging": _AVERAGING[report.tta],
        "Data": join("manifest, SHA-256 ", element("code", report.split.manifest_sha256)),
    }
    terms = (join(element("dt", name), element("dd", fact)) for name, fact in facts.items())
    yield element("dl", *terms)
    yield from _warnings(report)
    yield element("h2", "At a glance")
    yield element("div", _headlines(report), *_leak_free_headlines(report), class_="beside")
    first = report.models[0].metrics["bootstrap"]
    yield element(
        "p",
        f"Below each figure, where 95% of its values lie in {first['resamples']:,} resamples of "
        f"the images (percentile bootstrap, seed {first['seed']}). They tell how far the figure "
        "would move with other images of the same kind, not with other labels or other trainings."
        f" {_SPLITS.get(report.split.name, '')}",
        class_="note",
    )


def _described(model: ModelReport) -> str:
    members = model.metrics.get("members")
    if members:
        return f"{model.title}: the mean of all {len(members)}"
    return model.name if model.name == model.title else f"{model.title}: {model.name}"


def _measured(report: Report) -> str:
    metrics = report.models[0].metrics
    measured = f"{metrics['examples']:,} of {report.split.name}"
    leaked = _num_leaked(metrics)
    return f"{measured}, {leaked:,} of them also in train" if leaked else measured


def _num_leaked(metrics: Mapping[str, Any]) -> int:
    return int(metrics["examples"] - metrics["examples_leak_free"])


def _warnings(report: Report) -> Iterator[Markup]:
    for model in report.models:
        if report.split.name in (model.metrics["trained_on"] or ()):
            yield element(
                "p",
                f"{model.title} was trained on these images: the figures say how well it has "
                "learned them, and nothing of other images.",
                class_="warning",
            )
    if labelling.votes_are_on_other_images(report.split):
        agreeing, comparable = report.split.ferplus_agreeing, report.split.ferplus_comparable
        yield element(
            "p",
            f"FER+'s majority is the label on {agreeing:,} of {comparable:,} images of the data, "
            "no more than chance: the votes must be on other images, and no figure that rests on "
            "them means anything. Convert the data again with the other --ferplus_join.",
            class_="warning",
        )


def _headlines(report: Report) -> Markup:
    models = [model.metrics for model in report.models]
    rows: list[list[str]] = [
        *_rows(
            models,
            [model["bootstrap"]["ci95"] for model in models],
            [model["temperature_scaling"] for model in models],
        ),
        ["AURC", *(f"{m['aurc']:.3f}" for m in models)],
    ]
    if models[0]["ferplus_agreement"] is not None:
        rows.append(
            [
                _with_unit("FER+", "agrees with the majority"),
                *(_share(m["ferplus_agreement"]["agreement"]) for m in models),
            ]
        )
    return table(
        ["", *(model.title for model in report.models)],
        rows,
        caption="Figures",
        class_="headlines names",
    )


def _leak_free_headlines(report: Report) -> Iterator[Markup]:
    """Yields tables of the figures without leaked images, where there are such and others."""
    models = [model.metrics for model in report.models]
    leaked = _num_leaked(models[0])
    yield from _headlines_of_part(
        report, "leak_free", leaked, f"Without the {counted(leaked, 'image')} also in train"
    )
    left = [models[0][name] for name in ("leak_free", "near_leak_free")]
    near = 0 if None in left else left[0]["examples"] - left[1]["examples"]
    yield from _headlines_of_part(
        report,
        "near_leak_free",
        near,
        f"Without {'those and ' if leaked else ''}the {counted(near, 'image')} nearly equal to one "
        "in train",
    )


def _headlines_of_part(report: Report, part: str, left_out: int, caption: str) -> Iterator[Markup]:
    models = [model.metrics for model in report.models]
    if not left_out or models[0][part] is None:
        return
    yield table(
        ["", *(model.title for model in report.models)],
        _rows(
            [model[part] for model in models],
            [model["bootstrap"]["ci95"][part] for model in models],
            [(model["temperature_scaling"] or {}).get(part) for model in models],
        ),
        caption=caption,
        class_="headlines names",
    )


def _rows(
    figures: Sequence[Mapping[str, Any]],
    intervals: Sequence[Mapping[str, Sequence[float]]],
    scaled: Sequence[Mapping[str, Any] | None],
) -> list[list[str]]:
    """Returns the rows of accuracy, macro F1, NLL and ECE, a column for each model."""
    both = list(zip(figures, intervals, strict=True))

    def row(title: str, name: str) -> list[str]:
        return [title, *(_bounded(of[name], ci95[name]) for of, ci95 in both)]

    def scaled_row(title: str, name: str) -> list[str]:
        cells = ("none" if of is None else _bounded(of[name], of["ci95"][name]) for of in scaled)
        return [_with_unit(title, "with temperature"), *cells]

    return [
        ["accuracy", *(_percentage(of["accuracy"], ci95["accuracy"]) for of, ci95 in both)],
        row("macro F1", "macro_f1"),
        row(_with_unit("NLL", "nats"), "nll"),
        scaled_row("NLL", "nll"),
        row("ECE", "ece"),
        scaled_row("ECE", "ece"),
    ]


def _with_unit(name: str, unit: str) -> Markup:
    return join(name, element("span", unit, class_="share"))


def _percentage(value: float, bounds: Sequence[float]) -> Markup:
    low, high = bounds
    shown = element("span", f"{100 * low:.1f} to {100 * high:.1f}", class_="share")
    return join(f"{value:.1%}", shown)


def _bounded(value: float, bounds: Sequence[float]) -> Markup:
    low, high = bounds
    return join(f"{value:.3f}", element("span", f"{low:.3f} to {high:.3f}", class_="share"))


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


# The sections.


def _comparison(report: Report) -> Iterator[Markup]:
    comparisons = report.comparisons
    titles = {model.name: model.title for model in report.models}
    yield element(
        "p",
        "On the same images. A difference whose interval holds zero, or whose p-value is not "
        "small, may be chance: McNemar's exact test asks how often the images on which one alone "
        "is right would fall so unevenly between two equally good models. It knows nothing of "
        "the chance in a training: another seed may differ by as much.",
    )
    yield table(
        ["", "accuracy, points", "p", "alone right"],
        [_compared(pair, titles, corrected=len(comparisons) > 1) for pair in comparisons],
        caption="Pairs: the first model minus the second; on how many images each alone is right",
        class_="headlines",
    )
    if len(comparisons) > 1:
        yield element(
            "p",
            f"Of {counted(len(comparisons), 'pair')}, some would differ by chance: Holm's "
            "correction, below each p-value, raises them so that all together err as rarely as "
            "one.",
            class_="note",
        )


def _compared(pair: Comparison, titles: Mapping[str, str], *, corrected: bool) -> list[str]:
    low, high = map(_points, pair.accuracy_difference_ci95)
    bounds = element("span", f"{low} to {high}", class_="share")
    holm = element("span", f"Holm {_p_value(pair.p_value_holm)}", class_="share")
    return [
        join(element("div", titles[pair.first]), element("div", f"minus {titles[pair.second]}")),
        join(_points(pair.accuracy_difference), bounds),
        join(_p_value(pair.p_value), holm) if corrected else _p_value(pair.p_value),
        join(
            f"{pair.only_first_right:,}",
            element("span", f"to {pair.only_second_right:,}", class_="share"),
        ),
    ]


def _points(difference: float) -> str:
    """Returns a difference of shares in points, with a sign where it does not round to zero."""
    points = round(100 * difference, 1)
    return f"{points:+.1f}" if points else "0.0"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _expressions(models: Sequence[ModelReport]) -> Iterator[Markup]:
    yield element(
        "p",
        "Precision: how often the expression is true where it is the answer. Recall: how often "
        "it is the answer where it is true. F1: their harmonic mean.",
    )
    tables = [
        table(
            ["", "precision", "recall", "F1", "images"],
            [
                [
                    name,
                    *(shaded_cell(f"{of[key]:.3f}", of[key]) for key in _SCORES),
                    element("td", f"{of['support']:,}"),
                ]
                for name, of in model.metrics["per_expression"].items()
            ],
            caption=model.title,
            class_="shaded",
        )
        for model in models
    ]
    yield element("div", *tables, class_="beside")


_SCORES: Final = ("precision", "recall", "f1")


def _confusion(models: Sequence[ModelReport]) -> Iterator[Markup]:
    yield element(
        "p",
        "A row for each true expression, a column for each answer: the share of the row, and "
        "below it the images.",
    )
    yield element("div", *map(_matrix, models), class_="beside")


def _matrix(model: ModelReport) -> Markup:
    counts = np.array(model.metrics["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return table(
        ["", *model.expressions],
        [
            [
                name,
                *(
                    shaded_cell(
                        join(f"{share:.0%}", element("span", f"{count:,}", class_="share")), share
                    )
                    for count, share in zip(row, row_shares, strict=True)
                ),
            ]
            for name, row, row_shares in zip(model.expressions, counts, shares, strict=True)
        ],
        caption=model.title,
        class_="shaded matrix",
    )


def _calibration(report: Report) -> Iterator[Markup]:
    yield element(
        "p",
        "Of the answers with a confidence of 60%, 60% should be right: then the bars end on "
        "the diagonal. The expected calibration error (ECE) is the mean gap between both, "
        f"weighted by the images, in {calibration.BINS} bins. Temperature scaling divides the "
        "logits by one number, which leaves every answer as it is; above 1, the model was too "
        "sure of itself, below 1 not sure enough.",
    )
    yield element("p", _how_fitted(report))
    for model in report.models:
        if len(report.models) > 1:
            yield element("h3", model.title)
        scaling = model.metrics["temperature_scaling"]
        diagrams = [_reliability(model.reliability, "as it is", model.metrics)]
        if scaling is None or model.scaled_reliability is None:
            yield element("p", _why_unscaled(model))
        else:
            caption = f"with temperature {_temperature(scaling)}"
            diagrams.append(_reliability(model.scaled_reliability, caption, scaling))
        yield element("div", *diagrams, class_="beside")


def _how_fitted(report: Report) -> str:
    if report.split.name == "validation":
        return (
            f"The images of validation are dealt into {calibration.FOLDS} folds, equal ones into "
            "the same, and those of a fold are scaled with the temperature that fits the others "
            "that are not also in train: no figure after scaling is of images that its "
            "temperature was fitted on."
        )
    return (
        "The temperature is fitted on the images of validation that are not also in train and "
        f"equal none of those measured of {report.split.name}."
    )


def _why_unscaled(model: ModelReport) -> str:
    if "validation" in (model.metrics["trained_on"] or ()):
        return (
            "No temperature is fitted: the model was trained on validation, and is too sure there."
        )
    return (
        "No temperature is fitted: the data have no validation split with such labels, or none of "
        "its images is left to fit on."
    )


def _temperature(scaling: Mapping[str, Any]) -> str:
    folds = scaling["fold_temperatures"]
    if folds is None:
        return f"{scaling['temperature']:.3f}"
    return f"{scaling['temperature']:.3f} (folds: {min(folds):.3f} to {max(folds):.3f})"


def _selective(models: Sequence[ModelReport]) -> Iterator[Markup]:
    yield element(
        "p",
        "If the model answers only where it is sure, by the probability of its answer, and "
        "declines otherwise: the share of wrong answers (risk) for every share of images that it "
        "answers (coverage). The area under the curve (AURC) is the mean risk; lower is better.",
    )
    names = [model.title for model in models]
    rows = [
        [
            f"{coverage:.0%}",
            *(f"{model.metrics['accuracy_at_coverage'][str(coverage)]:.1%}" for model in models),
        ]
        for coverage in selective.COVERAGES
    ]
    rows.append(["AURC", *(f"{model.metrics['aurc']:.3f}" for model in models)])
    yield element(
        "div",
        _risk_chart({model.title: model.risk_coverage for model in models}),
        table(["coverage", *names], rows, caption="Accuracy by coverage", class_="names"),
        class_="beside",
    )


def _ferplus(models: Sequence[ModelReport]) -> Iterator[Markup]:
    agreements = [model.metrics["ferplus_agreement"] for model in models]
    if agreements[0] is None:
        yield element("p", "No votes were given when the data were converted.")
        return
    yield element(
        "p",
        "Ten people looked at every image again (Barsoum et al. 2016). How often the answer is "
        "what their majority saw, and how often the data set's own label is: the yardstick, which "
        "a model that repeats the labels would reach. The cross-entropy holds all its "
        "probabilities against the shares of the votes; the votes' own entropy, where people "
        "differ, is the least that it can be.",
    )
    rows = [
        ["images with a majority", *(f"{a['majority_examples']:,}" for a in agreements)],
        ["the model agrees", *(_share(a["agreement"]) for a in agreements)],
        ["the own labels agree", *(_share(a["labels_agreement"]) for a in agreements)],
        ["images with votes", *(f"{a['votes_examples']:,}" for a in agreements)],
        [_with_unit("cross-entropy", "nats"), *(_nats(a["cross_entropy"]) for a in agreements)],
        [_with_unit("votes' entropy", "nats"), *(_nats(a["votes_entropy"]) for a in agreements)],
    ]
    names = [model.title for model in models]
    yield table(["", *names], rows, caption="Against FER+'s votes", class_="names")


def _nats(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _mistakes(report: Report) -> Iterator[Markup]:
    yield element(
        "p",
        "The wrong answers that the model was surest of, with its three highest probabilities: "
        "the answer's and the label's are coloured. Often the label is what one would doubt.",
    )
    colours = legend(["answer", "label"], ["chosen", "true"])
    yield colours
    for model in report.models:
        if len(report.models) > 1:
            yield element("h3", model.title)
        wrong = model.metrics["examples"] - int(np.trace(model.metrics["confusion_matrix"]))
        shown = f"; {len(model.mistakes)} of them are shown" if len(model.mistakes) < wrong else ""
        yield element("p", f"{counted(wrong, 'mistake')}{shown}.", class_="note")
        yield faces(_mistake(mistake, model.expressions) for mistake in model.mistakes)


def _mistake(mistake: Mistake, expressions: Sequence[str]) -> Markup:
    label = expressions[mistake.label]
    answer = expressions[int(mistake.probabilities.argmax())]
    lines = [f"row {mistake.row}", f"label: {label}"]
    if mistake.majority != NO_LABEL:
        lines.append(f"FER+: {EIGHT_EXPRESSIONS[mistake.majority]}")
    if mistake.leaked:
        lines.append("also in train")
    picture = face(mistake.image, *lines, alt=f"row {mistake.row}, {label}, taken for {answer}")
    highest = np.argsort(-mistake.probabilities, kind="stable")[:_SHOWN_PROBABILITIES].tolist()
    bars = itertools.chain.from_iterable(
        (
            element("span", expressions[i]),
            element(
                "i",
                style=f"width:{mistake.probabilities[i]:.1%}",
                class_="true" if i == mistake.label else "chosen" if rank == 0 else "",
            ),
            element("span", f"{mistake.probabilities[i]:.0%}"),
        )
        for rank, i in enumerate(highest)
    )
    return element("div", picture, element("div", *bars, class_="answers"), class_="mistake")


# Charts.  Drawn in units of their own, which are pixels about.

_LEFT: Final = 46
_TOP: Final = 8
_WIDTH: Final = 256
_HEIGHT: Final = 190
_SHARES: Final = (0, 0.25, 0.5, 0.75, 1)
_AMOUNTS: Final = 30  # the height of the small chart below


def _reliability(reliability: Reliability, caption: str, figures: Mapping[str, Any]) -> Markup:
    """Returns a reliability diagram: accuracy by confidence, and how many images stand where."""
    shapes = [*_grid("confidence", "accuracy", _SHARES, below=_AMOUNTS + 6)]
    most = max(int(reliability.examples.max()), 1)
    width = _WIDTH / calibration.BINS
    base, bottom = _TOP + _HEIGHT, _TOP + _HEIGHT + 6 + _AMOUNTS
    for i, examples in enumerate(reliability.examples.tolist()):
        if examples:
            confidence, accuracy = float(reliability.confidence[i]), float(reliability.accuracy[i])
            low, high = (_HEIGHT * end for end in sorted((confidence, accuracy)))
            gap = "over" if confidence > accuracy else "under"
            amount = _AMOUNTS * examples / most
            text = (
                f"{counted(examples, 'image')}: confidence {confidence:.1%}, "
                f"accuracy {accuracy:.1%}"
            )
            left = _LEFT + i * width
            shapes += [
                _bar(left, base - low, width, low, "accuracy", text),
                _bar(left, base - high, width, high - low, gap, text),
                _bar(left, bottom - amount, width, amount, "amount", text),
            ]
    shapes.append(_line(0, 0, 1, 1, "diagonal"))
    ece = f"ECE {figures['ece']:.3f}, NLL {figures['nll']:.3f}"
    return _plot(
        f"{caption}: {ece}",
        legend(
            ["accuracy", "too sure", "not sure enough", "images"],
            ["accuracy", "over", "under", "series-5"],
        ),
        shapes,
        height=_TOP + _HEIGHT + _AMOUNTS + 40,
    )


def _risk_chart(curves: Mapping[str, RiskCoverage]) -> Markup:
    """Returns the risk-coverage curves, a line for each model."""
    # The first images alone, of which one may be wrong, would make the rest flat.
    highest = max(float(curve.risk[len(curve.risk) // 20 :].max()) for curve in curves.values())
    step = 0.1 if highest <= 0.5 else 0.2
    ticks = [step * number for number in range(max(1, int(np.ceil(highest / step))) + 1)]
    top = ticks[-1]
    classes = [f"series-{number % _SERIES}" for number in range(len(curves))]
    lines = []
    for curve, class_ in zip(curves.values(), classes, strict=True):
        n = len(curve.risk)
        places = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int))
        points = " ".join(
            f"{_LEFT + _WIDTH * coverage:.1f},{_TOP + _HEIGHT * (1 - min(risk / top, 1)):.1f}"
            for coverage, risk in zip(
                curve.coverage[places].tolist(), curve.risk[places].tolist(), strict=True
            )
        )
        lines.append(element("polyline", points=points, class_=class_))
    return _plot(
        "Risk by coverage",
        legend(curves, classes),
        [*_grid("coverage", "risk", ticks), *lines],
        height=_TOP + _HEIGHT + 34,
    )


def _plot(caption: str, names: Markup, shapes: Sequence[Markup], *, height: float) -> Markup:
    drawing = element(
        "svg",
        *shapes,
        viewBox=f"0 0 {_LEFT + _WIDTH + 8} {height}",
        class_="plot",
        role="img",
        aria_label=caption,
    )
    return element("figure", element("figcaption", caption), names, drawing, class_="chart")


def _grid(across: str, up: str, ticks: Sequence[float], *, below: float = 0) -> Iterator[Markup]:
    """Yields the lines and words of the axes: from 0 to 1 across, the ticks, from 0 on, upwards."""
    bottom = _TOP + _HEIGHT
    for tick in ticks:
        share = tick / ticks[-1]
        yield _line(0, share, 1, share, "grid")
        yield _text(f"{tick:.0%}", _LEFT - 5, bottom - _HEIGHT * share + 3, "end")
    for share in _SHARES:
        yield _text(f"{share:.0%}", _LEFT + _WIDTH * share, bottom + below + 13, "middle")
    yield _text(across, _LEFT + _WIDTH / 2, bottom + below + 27, "middle")
    turned = f"translate(9 {_TOP + _HEIGHT / 2}) rotate(-90)"
    yield element("text", up, text_anchor="middle", transform=turned)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Returns a line between two places of the unit square."""
    return element(
        "line",
        x1=f"{_LEFT + _WIDTH * x1:.1f}",
        y1=f"{_TOP + _HEIGHT * (1 - y1):.1f}",
        x2=f"{_LEFT + _WIDTH * x2:.1f}",
        y2=f"{_TOP + _HEIGHT * (1 - y2):.1f}",
        class_=class_,
    )


def _bar(x: float, y: float, width: float, height: float, class_: str, text: str) -> Markup:
    return element(
        "rect",
        element("title", text),
        x=f"{x + 0.75:.2f}",
        y=f"{y:.2f}",
        width=f"{width - 1.5:.2f}",
        height=f"{height:.2f}",
        class_=class_,
    )


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
