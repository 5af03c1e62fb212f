import pytest

from benchmarks import export_benchmark
from tests import exports


@pytest.mark.slow
def test_every_format_is_measured_beside_keras(run_benchmark, demo_data_dir, small_exports) -> None:
    table, content = run_benchmark(
        export_benchmark,
        f"--data_dir={demo_data_dir}",
        f"--model={small_exports.source.name}",
        "--calls=3",
        "--batch_size=40",
        "--seconds=0",
        "--repeats=2",
    )
    assert content["benchmark"] == "export_benchmark"
    assert {"onnxruntime", "ai-edge-litert"} <= content["versions"].keys()
    assert content["variants"].keys() == {"keras", *export_benchmark.EXPORTS}
    for name, variant in content["variants"].items():
        assert any(line.startswith(name) for line in table.splitlines())
        assert 0 < variant["p50_milliseconds"]["median"] <= variant["p99_milliseconds"]["median"]
        assert len(variant["images_per_second"]["raw"]) == 2
    assert content["speed_to_keras"].keys() == export_benchmark.EXPORTS.keys()


def test_what_the_tests_export_is_what_is_measured() -> None:
    assert set(export_benchmark.EXPORTS.values()) == set(exports.VARIANTS.values())
