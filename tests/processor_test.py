"""The processor's name and instructions, and the kernels that TensorFlow takes for them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow.python.framework import test_util

from fer_tfdata import processor

ROOT = Path(__file__).resolve().parent.parent
CPUINFO = """\
processor	: 0
model name	: A Processor 2000 @ 2.80GHz
flags		: fpu avx2 avx512_bf16
processor	: 1
model name	: A Processor 2000 @ 2.80GHz
flags		: fpu avx2 avx512_bf16
"""
VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of Linux's own, which is yet to be written."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "_CPUINFO", path)
    return path


def test_linux_names_it_and_its_instructions(cpuinfo: Path) -> None:
    cpuinfo.write_text(CPUINFO, encoding="utf-8")
    assert processor.name() == "A Processor 2000 @ 2.80GHz"
    assert processor.instructions() == {"fpu", "avx2", "avx512_bf16"}


def test_elsewhere_python_names_it(cpuinfo: Path) -> None:
    assert not cpuinfo.exists()
    assert processor.name() == (platform.processor() or platform.machine()) != ""
    assert processor.instructions() == set()


@pytest.mark.parametrize(
    ("instructions", "chosen", "expected"),
    [
        ("avx2", None, False),
        ("avx2 avx512_vnni", None, True),
        ("avx2", "1", True),
        ("avx2 avx512_vnni", "FALSE", False),
        ("avx2 avx512_vnni", "no", True),  # which TensorFlow does not understand either
    ],
)
def test_whether_tensorflow_takes_onednn(
    cpuinfo: Path, monkeypatch, instructions: str, chosen: str | None, expected: bool
) -> None:
    cpuinfo.write_text(f"flags\t\t: {instructions}\n", encoding="utf-8")
    monkeypatch.delenv(VARIABLE, raising=False)
    if chosen is not None:
        monkeypatch.setenv(VARIABLE, chosen)
    assert processor.takes_onednn() is expected


def test_tensorflow_sees_it_so() -> None:
    assert test_util.IsMklEnabled() is processor.takes_onednn()


@pytest.mark.parametrize(
    ("machine", "chosen", "before", "expected"),
    [
        ("x86_64", None, "", "1"),
        ("x86_64", "0", "", "0"),
        ("x86_64", None, "import sys; sys.modules['tensorflow'] = None", "None"),
        ("aarch64", None, "", "None"),
    ],
)
def test_onednn_is_asked_for_on_x86_where_nobody_has_chosen(
    machine: str, chosen: str | None, before: str, expected: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    if chosen is not None:
        environment[VARIABLE] = chosen
    code = f"""
import os, types
os.uname = lambda: types.SimpleNamespace(machine={machine!r})
{before}
import fer_tfdata
print(os.environ.get({VARIABLE!r}))
"""
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    assert printed == f"{expected}\n"
