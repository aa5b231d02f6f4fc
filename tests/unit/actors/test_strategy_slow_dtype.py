"""Training says so where a processor has no instructions for bfloat16."""

from __future__ import annotations

import pytest
import torch

from actors import strategy


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "is_slow"),
    [
        ("cpu", "bf16", "AVX2", True),
        ("cpu", "bf16", "AVX512", False),
        ("cpu", "fp32", "AVX2", False),
        ("cuda", "bf16", "AVX2", False),
    ],
)
def test_slow_dtype(
    monkeypatch: pytest.MonkeyPatch, device: strategy.Device, dtype: str, capability: str, is_slow: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    told = strategy.slow_dtype(device, dtype)
    assert (told is not None and "set ds.param_dtype fp32" in told) == is_slow
    assert is_slow or told is None
