"""The same directory through Apache Beam, with its own runner in this process and in others."""

import resource
from pathlib import Path

import pytest

from fer_tfdata import conversion, records
from fer_tfdata.beam_engine import BeamEngine
from fer_tfdata.errors import InputError
from fer_tfdata.sources import ImageFolder, KaggleCsv
from tests.conversion_test import contents

IN_PROCESS = "--runner=DirectRunner --direct_running_mode=in_memory"
IN_PROCESSES = "--runner=DirectRunner --direct_running_mode=multi_processing " + (
    "--direct_num_workers=2"
)


def test_a_csv_gives_the_same_bytes(demo_csv: Path, demo_data_dir: Path, tmp_path: Path):
    source = KaggleCsv((demo_csv,))
    assert len(source.parts(BeamEngine.num_parts)) > 1
    conversion.convert(source, tmp_path / "data", engine=BeamEngine(IN_PROCESS))
    assert contents(tmp_path / "data") == contents(demo_data_dir)


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(image_dir: Path, tmp_path: Path):
    options = {"num_shards": 3, "seed": 5, "drop": ["leaks", "flat"]}
    source = ImageFolder(image_dir)
    assert len(source.parts(BeamEngine.num_parts)) > 1
    conversion.convert(source, tmp_path / "local", **options)
    conversion.convert(source, tmp_path / "beam", engine=BeamEngine(IN_PROCESSES), **options)
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")


@pytest.mark.slow
def test_many_parts_need_few_open_files(demo_csv: Path, tmp_path: Path):
    engine = BeamEngine(f"{IN_PROCESS} --direct_num_workers=1")
    source = KaggleCsv((demo_csv,) * 60)
    assert len(source.parts(engine.num_parts)) > 200
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
    try:
        conversion.convert(source, tmp_path / "data", engine=engine)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert records.open_split(tmp_path / "data", "train").examples == 60 * 140


def test_a_bad_row_is_the_same_error_and_leaves_nothing(demo_csv: Path, tmp_path: Path):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(demo_csv.read_bytes() + b"3,1 2 3,Training\n" + b"4,1,Training\n")
    with pytest.raises(InputError, match=r"fer2013\.csv, line 212: expected 2304 pixels"):
        conversion.convert(KaggleCsv((path,)), tmp_path / "d", engine=BeamEngine(IN_PROCESS))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "beam_args",
    [
        *("--runner", '"', "--direct_running_mode=nowhere", "--runner=Nope"),
        *("--runner=no.such.Runner", "--runner=apache_beam.NoSuchRunner"),
        "--direct_runing_mode=multi_processing",
    ],
)
def test_options_that_beam_does_not_take(beam_args: str):
    with pytest.raises(InputError, match="beam_args: expected Apache Beam's options"):
        BeamEngine(beam_args)
