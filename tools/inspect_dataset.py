"""Shows what a data set holds, in one page of HTML: counts, faces, pixels, duplicates, faults.

python -m tools.inspect_dataset --data_dir=data --output_dir=report
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_tfdata import atomic, command_line


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    command_line.define_data_dir(flag_values)
    flags.DEFINE_string(
        "output_dir",
        None,
        "Where index.html goes; an older one is replaced.",
        required=True,
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Writes the page and prints its path and what is worth knowing first."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from tqdm import tqdm

    from fer_tfdata import inspection, inspection_page

    with tqdm(unit=" images", desc="inspecting", disable=not sys.stderr.isatty()) as bar:
        inspected = inspection.inspect(Path(values.data_dir), on_read=bar.update)
    page = Path(values.output_dir) / "index.html"
    atomic.write_text(page, inspection_page.render(inspected))
    print(page)
    for split in inspected.contents.splits:
        print(f"  {split.name}: {split.examples:,} images")
    for headline in inspection_page.headlines(inspected):
        print(f"  {headline.text}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
