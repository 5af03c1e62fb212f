"""What the programs share: parsing that refuses what it does not know, help, errors as one line.

Beside `tools/` and `benchmarks/`, the only module that knows of absl's flags.
"""

import contextlib
import importlib.util
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from absl import app, flags

from fer_tfdata import chatter
from fer_tfdata.errors import InputError

EXIT_USER_ERROR = 2

_FOR_WHAT_IS_NOT_USED: Final = frozenset({"jax", "matplotlib", "pandas", "sklearn"})


def define_data_dir(flag_values: flags.FlagValues) -> None:
    """Adds --data_dir, required, as all programs have it that read converted data."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote (its --output_dir).",
        required=True,
        flag_values=flag_values,
    )


def run(
    main: Callable[[Sequence[str]], int | None],
    define_flags: Callable[[flags.FlagValues], None],
    description: str | None,
) -> NoReturn:
    """Runs a program: flags from `sys.argv`, an `InputError` as one line and exit code 2.

    Args:
      main: gets the arguments that are no flags (none but the program's name); returns the exit
        code, None for 0.
      define_flags: adds the program's flags to the given values.
      description: the head of `--help`, usually the module's docstring.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Else, the first time, that it has made its list of fonts.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    define_flags(flags.FLAGS)

    def parse(argv: Sequence[str]) -> list[str]:
        if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
            with _until_the_reader_goes():
                print(_help_text(define_flags, description), flush=True)
            raise SystemExit(0)
        try:
            rest: list[str] = flags.FLAGS(list(argv))
        except flags.Error as error:
            _fail(str(error))
        if len(rest) > 1:
            _fail(f"unknown argument {rest[1]!r}: every value belongs to a flag (see --help)")
        return rest

    def guarded(argv: Sequence[str]) -> int | None:
        try:
            with _until_the_reader_goes():
                return main(argv)
        except InputError as error:
            _fail(str(error))
        except OSError as error:
            if error.strerror is None:
                raise
            _fail(f"{error.filename or 'writing'}: {error.strerror}")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    app.run(guarded, argv=sys.argv, flags_parser=parse)


def sigterm_noted() -> Callable[[], bool]:
    """Returns what says whether SIGTERM came since now; a second one ends the process as ever."""
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, note)
    return lambda: asked


@contextlib.contextmanager
def _until_the_reader_goes() -> Iterator[None]:
    """Ends the program without a word when who reads its output has gone, as `| head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow without its chatter on stderr, where errors are to be one line.

    Its C++ side reports its build and the GPUs it does not find before any log level applies.
    Where there is an NVIDIA driver and yet no GPU, the chatter is shown: it says why.

    What TensorFlow and Keras import, where it is installed, for features that nothing here uses
    (Keras's scikit-learn wrappers and galleries, DataFrames in `fit`, JAX's models in LiteRT) is
    kept from them: with all of it, importing them takes twice as long.

    Where Keras is to compute by JAX (KERAS_BACKEND=jax), TensorFlow only reads data, and leaves the
    GPUs alone.

    Raises:
      InputError: Keras is to compute by what is not installed, or not supported here.
    """
    backend = _keras_backend()
    os.environ["KERAS_BACKEND"] = backend  # which Keras may have from a file in the home as well
    with chatter.kept_back() as show:
        with _not_to_be_found(_FOR_WHAT_IS_NOT_USED - {backend}):
            import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if backend == "jax":
            tf.config.set_visible_devices([], "GPU")  # whose memory it would take
            logging.getLogger("jax").setLevel(logging.WARNING)  # else: that there is no TPU
        elif not gpus and Path("/dev/nvidiactl").exists():
            show()


@contextlib.contextmanager
def _not_to_be_found(packages: Iterable[str]) -> Iterator[None]:
    """Lets imports of packages fail within the block, as if they were not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is for that
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _keras_backend() -> str:
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND: expected tensorflow or jax, received {backend!r}")
    if backend == "jax" and importlib.util.find_spec("jax") is None:
        raise InputError(
            "KERAS_BACKEND=jax: JAX is not installed; run pip install 'fer-tfdata[jax]'"
        )
    return backend


def _help_text(define_flags: Callable[[flags.FlagValues], None], description: str | None) -> str:
    # Values of their own: `--help` lists this program's flags and none of the libraries'.
    own = flags.FlagValues()
    define_flags(own)
    listing = "\n".join(_entry(own, name) for name in sorted(own))
    return f"{(description or '').strip()}\n\nFlags:\n\n{listing}\n"


def _entry(values: flags.FlagValues, name: str) -> str:
    flag = values[name]
    help_text = flag.help
    if flag.boolean:
        head = f"--[no]{name}"
    elif isinstance(flag, flags.EnumFlag):
        choices = f"<{'|'.join(flag.parser.enum_values)}>"
        head, help_text = f"--{name}={choices}", help_text.removeprefix(f"{choices}: ")
    else:
        head = f"--{name}=VALUE"
    default = "" if flag.default in (None, "", []) else f" (default: {flag.default_as_str})"
    return f"  {head}\n      {' '.join(help_text.split())}{default}"


def _fail(message: str) -> NoReturn:
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(message.split())}", file=sys.stderr)  # noqa: PTH119
    raise SystemExit(EXIT_USER_ERROR)
