import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os
import signal
import sys
from absl import flags
from fer_tfdata import command_line
from fer_tfdata.errors import InputError

def define_flags(values=flags.FLAGS):
    flags.DEFINE_integer("number", 3, "A number.", flag_values=values)
    modes = ["ok", "bad", "full", "interrupt", "terminate"]
    flags.DEFINE_enum("mode", "ok", modes, "What happens.", flag_values=values)

def main(argv):
    mode = flags.FLAGS.mode
    if mode == "bad":
        raise InputError("data.csv: expected this,\\n  received that")
    if mode == "full":
        open("/dev/full", "w").write("x" * 100_000)
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode == "terminate":
        stop_asked = command_line.sigterm_noted()
        assert not stop_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        print("asked", stop_asked(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    print("number", flags.FLAGS.number)

command_line.run(main, define_flags, "Does a thing.\\n\\nAnd another.")
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)

    def call(*arguments):
        return subprocess.run(
            [sys.executable, tmp_path / "program.py", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )

    return call


def test_a_program_that_does_its_work(program) -> None:
    result = program("--number=5")
    assert (result.returncode, result.stdout, result.stderr) == (0, "number 5\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=bad"], "data.csv: expected this, received that"),
        (["--nmber=5"], "Unknown command line flag 'nmber'. Did you mean: number ?"),
        (["--number=five"], "flag --number=five: invalid literal for int() with base 10: 'five'"),
        (
            ["--mode=other"],
            "flag --mode=other: value should be one of <ok|bad|full|interrupt|terminate>",
        ),
        (["5"], "unknown argument '5': every value belongs to a flag (see --help)"),
        (["--mode=full"], "writing: No space left on device"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(program, arguments, message) -> None:
    result = program(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"program.py: {message}\n"


def test_a_first_sigterm_is_noted_and_a_second_one_ends(program) -> None:
    result = program("--mode=terminate")
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "asked True\n")


def test_an_interrupt_is_no_traceback(program) -> None:
    result = program("--mode=interrupt")
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_program_s_flags_and_no_library_s(program, flag) -> None:
    result = program(flag)
    assert result.returncode == 0
    assert result.stdout == (
        "Does a thing.\n\nAnd another.\n\nFlags:\n\n"
        "  --mode=<ok|bad|full|interrupt|terminate>\n      What happens. (default: 'ok')\n"
        "  --number=VALUE\n      A number. (default: '3')\n\n"
    )
    assert result.stderr == ""


def test_tensorflow_is_imported_without_what_only_its_unused_wrappers_need() -> None:
    code = """
import sys
from fer_tfdata import command_line
command_line.import_tensorflow_quietly()
print({"jax", "matplotlib", "pandas", "sklearn"} & set(sys.modules))
import jax, matplotlib.pyplot, pandas, sklearn.metrics  # found again
"""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    assert printed == "set()\n"


def test_matplotlib_is_quiet_when_it_looks_for_fonts_the_first_time(tmp_path) -> None:
    code = """
import sys
from fer_tfdata import command_line

def main(argv):
    import matplotlib.font_manager

command_line.run(main, lambda values: None, "")
"""
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.glob("fontlist*.json"))
