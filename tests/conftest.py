from pathlib import Path

import pytest

from fer_tfdata import demo_faces, sources


@pytest.fixture(scope="session")
def demo_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces as a Kaggle CSV: 140 rows of train, 35 of validation, 35 of test."""
    path = tmp_path_factory.mktemp("demo") / "fer2013.csv"
    demo_faces.write_csv(path, train=140, validation=35, test=35)
    return path


@pytest.fixture(scope="session")
def demo_data_dir(demo_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory converted from `demo_csv`; for reading only."""
    from fer_tfdata import records  # here, since it imports TensorFlow

    data_dir = tmp_path_factory.mktemp("demo_data")
    records.write_dataset(sources.read_kaggle_csv(demo_csv), data_dir, source=demo_csv)
    return data_dir


@pytest.fixture(scope="session")
def trained_run(demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two epochs on the drawn faces; for reading only."""
    from fer_tfdata import training
    from fer_tfdata.train_config import TrainConfig

    run_dir = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32")
    training.train(config, run_dir)
    return run_dir
