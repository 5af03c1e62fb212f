"""The processor's name and instructions, and the kernels that TensorFlow takes for them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow.python.framework import test_util

from fer_tfdata import processor

CPUINFO = """\
processor	: 0
model name	: A Processor 2000 @ 2.80GHz
flags		: fpu avx2 avx512_bf16
processor	: 1
model name	: A Processor 2000 @ 2.80GHz
flags		: fpu avx2 avx512_bf16
"""
X86 = platform.machine() == "x86_64"
VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def test_linux_names_it_and_its_instructions(tmp_path: Path, monkeypatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CPUINFO, encoding="utf-8")
    monkeypatch.setattr(processor, "_CPUINFO", cpuinfo)
    assert processor.name() == "A Processor 2000 @ 2.80GHz"
    assert processor.instructions() == {"fpu", "avx2", "avx512_bf16"}


def test_elsewhere_python_names_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "none")
    assert processor.name() == platform.processor()
    assert processor.instructions() == set()


@pytest.mark.skipif(not X86, reason="oneDNN is asked for on x86 alone")
def test_tensorflow_uses_onednn() -> None:
    assert test_util.IsMklEnabled()


@pytest.mark.skipif(not X86, reason="oneDNN is asked for on x86 alone")
@pytest.mark.parametrize(
    ("chosen", "before", "expected"),
    [
        (None, "", "1"),
        ("0", "", "0"),
        (None, "sys.modules['tensorflow'] = None", "None"),  # imported before
    ],
)
def test_a_choice_that_was_made_stays(chosen: str | None, before: str, expected: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    if chosen is not None:
        environment[VARIABLE] = chosen
    code = f"import os, sys\n{before}\nimport fer_tfdata\nprint(os.environ.get({VARIABLE!r}))"
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == expected
