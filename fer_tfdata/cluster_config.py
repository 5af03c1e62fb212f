"""Which processes train together, and which of them this one is.

Apart from `cluster`, so that a program can define its flags without importing a backend.
"""

import dataclasses
import re

from fer_tfdata.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """One process of those that train together.

    Attributes:
      coordinator: `host:port`, where the first process is to listen and all find each other.
      num_processes: how many they are, usually one a host.
      process_id: which of them this one is, from 0.
    """

    coordinator: str | None = None
    num_processes: int = 1
    process_id: int = 0

    def __post_init__(self) -> None:
        """Checks that there is such a process.

        Raises:
          InputError: a value is out of its range, or two do not go together; the message names
            them.
        """
        if self.num_processes < 1:
            raise InputError(f"num_processes: expected 1 or more, received {self.num_processes}")
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"process_id: expected 0 to {self.num_processes - 1} "
                f"(num_processes={self.num_processes}), received {self.process_id}"
            )
        if self.num_processes > 1 and self.coordinator is None:
            raise InputError(
                "coordinator: expected host:port of the first process, the same for every process, "
                f"for num_processes={self.num_processes}, received none"
            )
        if self.coordinator is not None:
            _check_address(self.coordinator)


def _check_address(address: str) -> None:
    match = re.fullmatch(r"([^\s:/]+|\[[^\s\[\]/]+\]):(\d{1,5})", address)
    if match is None or not 1 <= int(match[2]) <= 65_535:
        raise InputError(f"coordinator: expected an address like host:5051, received {address!r}")
