"""Which dtype policy this device wants."""

import contextlib
from collections.abc import Iterator
from typing import Final

import keras
import tensorflow as tf

from fer_tfdata import processor
from fer_tfdata.errors import InputError

# Linux's names of the instructions that multiply bfloat16 matrices.
_BFLOAT16_CPU_FLAGS: Final = frozenset({"amx_bf16", "avx512_bf16"})

# Networks that move more than they multiply: on a CPU, bfloat16's conversions cost them more than
# its faster products save (docs/models.md has both speeds).
_FLOAT32_ON_CPU: Final = frozenset({"mini_xception"})


def choose_policy(precision: str, *, model: str) -> str:
    """Returns the Keras dtype policy for `precision` on this machine.

    `auto` is mixed_bfloat16 where the GPU (compute capability 8.0 and up) or the CPU (AMX or
    AVX512-BF16) has it, mixed_float16 on a 7.x GPU, float32 otherwise, for a network that a CPU
    trains faster so, and for JAX on a CPU.

    Args:
      precision: one of `train_config.PRECISIONS`.
      model: one of `train_config.MODELS`.

    Raises:
      InputError: mixed_float16 on a CPU, which emulates it at a tenth of float32's speed.
    """
    capability = _gpu_compute_capability()
    if precision == "auto":
        # An interrupted run of JAX in mixed_bfloat16 may end otherwise than one that ran through.
        if capability is None and keras.backend.backend() == "jax":
            return "float32"
        return policy_for(capability, processor.instructions(), model=model)
    if precision == "mixed_float16" and capability is None:
        raise InputError(
            "precision: mixed_float16 needs a GPU, and there is none; expected auto, float32 or "
            "mixed_bfloat16"
        )
    return precision


def policy_for(
    gpu_compute_capability: tuple[int, int] | None, cpu_flags: frozenset[str], *, model: str
) -> str:
    """Returns what `auto` means on such a machine."""
    if gpu_compute_capability is not None:
        if gpu_compute_capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if gpu_compute_capability >= (7, 0) else "float32"
    faster = cpu_flags & _BFLOAT16_CPU_FLAGS and model not in _FLOAT32_ON_CPU
    return "mixed_bfloat16" if faster else "float32"


@contextlib.contextmanager
def policy_scope(policy: str) -> Iterator[None]:
    """Makes `policy` Keras's global dtype policy within the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _gpu_compute_capability() -> tuple[int, int] | None:
    if keras.backend.backend() == "jax":
        return _gpu_compute_capability_of_jax()
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return None
    return tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))


def _gpu_compute_capability_of_jax() -> tuple[int, int] | None:
    import jax

    (device, *_) = jax.local_devices()
    if device.platform != "gpu":
        return None
    major, minor = device.compute_capability.split(".")
    return int(major), int(minor)
