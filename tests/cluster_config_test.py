import pytest
from absl import flags

from fer_tfdata.cluster_config import ClusterConfig
from fer_tfdata.errors import InputError
from tools import train


def test_a_process_is_alone_by_default() -> None:
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train", "--data_dir=data", "--run_dir=run"])
    assert train.cluster_from_flags(values) == ClusterConfig()


def test_the_flags_say_which_process_this_is() -> None:
    values = flags.FlagValues()
    train.define_flags(values)
    place = ["--coordinator=[fd00::1]:5051", "--num_processes=3", "--process_id=2"]
    values(["train", "--data_dir=data", "--run_dir=run", *place])
    expected = ClusterConfig(coordinator="[fd00::1]:5051", num_processes=3, process_id=2)
    assert train.cluster_from_flags(values) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 0}, "num_processes: expected 1 or more, received 0"),
        ({"process_id": 1}, r"process_id: expected 0 to 0 \(num_processes=1\), received 1"),
        ({"num_processes": 2, "process_id": -1}, "process_id: expected 0 to 1"),
        ({"num_processes": 2}, "coordinator: expected host:port of the first process"),
        ({"coordinator": "host0"}, "coordinator: expected an address like host:5051"),
        ({"coordinator": "host0:0"}, "coordinator: expected an address like host:5051"),
        ({"coordinator": "http://host0:5051"}, "coordinator: expected an address like host:5051"),
    ],
)
def test_what_is_no_process_of_a_training_is_refused(given, message) -> None:
    with pytest.raises(InputError, match=message):
        ClusterConfig(**given)
