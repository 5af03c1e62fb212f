import json
import sys

import pytest
from absl import flags

from benchmarks import export_benchmark
from tests import exports


@pytest.mark.slow
def test_every_format_is_measured_beside_keras(
    monkeypatch, capsys, demo_data_dir, small_exports
) -> None:
    command = [
        export_benchmark.NAME,
        f"--data_dir={demo_data_dir}",
        f"--model={small_exports.source.name}",
        "--calls=3",
        "--batch_size=40",
        "--seconds=0",
        "--repeats=2",
    ]
    values = flags.FlagValues()
    export_benchmark.define_flags(values)
    values(command)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", command)
    export_benchmark.main(command[:1])
    *table, last = capsys.readouterr().out.splitlines()
    content = json.loads(last)
    assert content["benchmark"] == "export_benchmark"
    assert {"onnxruntime", "ai-edge-litert"} <= content["versions"].keys()
    assert content["variants"].keys() == {"keras", *export_benchmark.EXPORTS}
    for name, variant in content["variants"].items():
        assert any(line.startswith(name) for line in table)
        assert 0 < variant["p50_milliseconds"]["median"] <= variant["p99_milliseconds"]["median"]
        assert len(variant["images_per_second"]["raw"]) == 2
    assert content["speed_to_keras"].keys() == export_benchmark.EXPORTS.keys()


def test_what_the_tests_export_is_what_is_measured() -> None:
    assert set(export_benchmark.EXPORTS.values()) == set(exports.VARIANTS.values())
