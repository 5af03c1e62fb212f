import keras
import pytest
import tensorflow as tf

from fer_tfdata import precision, processor
from fer_tfdata.errors import InputError


@pytest.mark.parametrize(
    ("capability", "cpu_flags", "policy"),
    [
        ((9, 0), set(), "mixed_bfloat16"),
        ((8, 0), {"amx_bf16"}, "mixed_bfloat16"),
        ((7, 5), {"amx_bf16"}, "mixed_float16"),
        ((7, 0), set(), "mixed_float16"),
        ((6, 1), {"avx512_bf16"}, "float32"),
        (None, {"sse2", "amx_bf16"}, "mixed_bfloat16"),
        (None, {"avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        (None, {"avx2", "avx512f"}, "float32"),
        (None, set(), "float32"),
    ],
)
def test_auto_takes_what_the_device_is_fast_at(capability, cpu_flags, policy) -> None:
    assert precision.policy_for(capability, frozenset(cpu_flags), model="residual_small") == policy


def test_auto_is_float32_for_separable_convolutions_on_a_cpu_alone() -> None:
    flags = frozenset({"amx_bf16"})
    assert precision.policy_for(None, flags, model="mini_xception") == "float32"
    assert precision.policy_for((9, 0), flags, model="mini_xception") == "mixed_bfloat16"


def test_auto_is_float32_for_jax_on_a_cpu_alone(monkeypatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(processor, "instructions", lambda: frozenset({"amx_bf16"}))
    for capability, policy in ((None, "float32"), ((9, 0), "mixed_bfloat16")):
        monkeypatch.setattr(precision, "_gpu_compute_capability", lambda c=capability: c)
        assert precision.choose_policy("auto", model="vgg") == policy
    assert precision.choose_policy("mixed_bfloat16", model="vgg") == "mixed_bfloat16"


def test_a_named_precision_is_taken() -> None:
    assert precision.choose_policy("float32", model="vgg") == "float32"
    assert precision.choose_policy("mixed_bfloat16", model="vgg") == "mixed_bfloat16"
    assert precision.choose_policy("auto", model="vgg") in (
        "float32",
        "mixed_bfloat16",
        "mixed_float16",
    )


def test_float16_without_a_gpu_is_refused() -> None:
    if tf.config.list_physical_devices("GPU"):
        assert precision.choose_policy("mixed_float16", model="vgg") == "mixed_float16"
    else:
        with pytest.raises(InputError, match="mixed_float16 needs a GPU"):
            precision.choose_policy("mixed_float16", model="vgg")


def test_the_policy_ends_with_its_scope() -> None:
    before = keras.config.dtype_policy()

    def fail() -> None:
        with precision.policy_scope("mixed_bfloat16"):
            assert keras.config.dtype_policy().name == "mixed_bfloat16"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert keras.config.dtype_policy() == before
