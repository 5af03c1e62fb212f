"""Runs a conversion's tasks on Apache Beam, with any of its runners.

What the tasks read and write must be where every worker sees it under one path: on a file system
that the machines share, or on one machine.  The directory is the same, byte for byte, as this
process would write it.
"""

import contextlib
import functools
import io
import pickle
import shlex
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from fer_tfdata.errors import InputError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

# Enough to keep a cluster busy; what is small is cut into fewer.
_NUM_PARTS: Final = 256

# What runs a pipeline on this machine.  Under its usual name, DirectRunner, Beam first looks for a
# program on the network.
_DIRECT_RUNNER: Final = "FnApiRunner"


class BeamEngine:
    """Runs every stage as one pipeline, whose tasks leave their results as files."""

    num_parts = _NUM_PARTS

    def __init__(self, beam_args: str) -> None:
        """Takes Beam's options.

        Args:
          beam_args: as on a command line, such as "--runner=FlinkRunner --flink_master=host:8081".

        Raises:
          InputError: Beam is not installed, or does not know an option.
        """
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        except ImportError as error:
            raise InputError(
                "engine: expected Apache Beam for --engine=beam, which is not installed: "
                "pip install 'fer-tfdata[beam]'"
            ) from error
        usage = io.StringIO()  # Beam prints a hundred lines of it before it says what is wrong
        try:
            with contextlib.redirect_stderr(usage):
                self._options = PipelineOptions(shlex.split(beam_args))
                known = self._options.get_all_options()
                unknown = set(self._options.get_all_options(retain_unknown_options=True)) - set(
                    known
                )
                if unknown:
                    raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
                runner = self._options.view_as(StandardOptions)
                if runner.runner in (None, "DirectRunner"):
                    runner.runner = _DIRECT_RUNNER
                beam.Pipeline(options=self._options)
        except (SystemExit, ValueError, ImportError, AttributeError) as error:
            # The last two of a runner that is not there, or whose own packages are not.
            reason = usage.getvalue().splitlines()[-1:] or [str(error)]
            raise InputError(
                f"beam_args: expected Apache Beam's options, received {beam_args!r}: {reason[0]}"
            ) from error

    def map(
        self, function: Callable[[_Task], _Result], tasks: Iterable[_Task], scratch: Path
    ) -> list[_Result]:
        """Returns the results in the order of the tasks."""
        import apache_beam as beam

        with tempfile.TemporaryDirectory(dir=scratch) as results:
            numbered = list(enumerate(tasks))
            try:
                with beam.Pipeline(options=self._options) as pipeline:
                    _ = (
                        pipeline
                        | "Tasks" >> beam.Create(numbered)
                        | "Spread" >> beam.Reshuffle()
                        | "Run" >> beam.Map(functools.partial(_run, function, results))
                    )
            except Exception as error:  # each runner has its own
                reason = " ".join(str(error).split())[:500] or type(error).__name__
                raise InputError(
                    f"engine: Apache Beam could not run the tasks: {reason}"
                ) from error
            return [_result(Path(results, str(number))) for number, _ in numbered]


def _run(function: Callable[[Any], Any], directory: str, numbered: tuple[int, Any]) -> None:
    """Leaves a task's result as a file; of a task that is run twice, the last remains."""
    number, task = numbered
    try:
        result = function(task)
    except (InputError, OSError) as error:  # raised where a person sees it, and not tried again
        result = error
    temporary = Path(directory, f"{number}-{uuid.uuid4().hex}")
    temporary.write_bytes(pickle.dumps(result))
    temporary.replace(Path(directory, str(number)))


def _result(file: Path) -> Any:
    result = pickle.loads(file.read_bytes())
    if isinstance(result, Exception):
        raise result
    return result
