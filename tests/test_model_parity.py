"""The model computes the reference's numbers, and the check that says so fails when it does not."""

import dataclasses

import numpy as np
import pytest

from mlx_clap import grid, htsat, roberta
from mlx_clap.backend import mx
from mlx_clap.clap import Clap
from mlx_clap.verify import CPU_FLOAT32, SMALL, check, seeded_clap, stored_reference


def failed(clap: Clap, reference) -> list[str]:
    return [f"{c.name}: {c.error:.2e} > {c.bar:.0e}" for c in check(clap, reference, CPU_FLOAT32) if not c.ok]


@pytest.mark.parametrize("name", SMALL)
def test_every_stage_equals_the_stored_reference(name):
    reference = stored_reference(name)
    checks = check(seeded_clap(reference.config), reference, CPU_FLOAT32)
    assert [c for c in checks if not c.ok] == []
    assert len(checks) > 20  # both towers, all stages


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("compute", ["float32", "as stored"])
def test_half_precision_stays_within_its_bar(dtype, compute):
    reference = stored_reference("small")
    clap = seeded_clap(reference.config, dtype)
    clap.dtype = mx.float32 if compute == "float32" else dtype
    assert [c for c in check(clap, reference) if not c.ok] == []


def rewritten(clap: Clap, **changes) -> Clap:
    """The same model with some weights changed: `changes` maps a name's end to a function of the array."""
    weights = dict(clap.weights)
    for name in weights:
        for ending, change in changes.items():
            if name.endswith(ending.replace("__", ".")):
                weights[name] = change(weights[name])
    return Clap(clap.config, weights)


WEIGHT_MUTATIONS = {
    "no relative bias": {"bias_table": lambda t: t * 0},
    "transposed relative bias": {"bias_table": lambda t: t[::-1]},
    "no batch norm": {
        "batch_norm__mean": lambda x: x * 0,
        "batch_norm__var": lambda x: x * 0 + 1,
        "batch_norm__weight": lambda x: x * 0 + 1,
        "batch_norm__bias": lambda x: x * 0,
    },
    "query and key exchanged": {
        "attention__qkv__weight": lambda w: mx.concatenate([w[w.shape[0] // 3 : 2 * w.shape[0] // 3],
                                                            w[: w.shape[0] // 3], w[2 * w.shape[0] // 3 :]])
    },
    "token type forgotten": {"token_types": lambda x: x * 0},
}  # fmt: skip


@pytest.mark.parametrize("mutation", WEIGHT_MUTATIONS)
def test_the_check_notices_wrong_weights(mutation):
    reference = stored_reference("small")
    assert failed(rewritten(seeded_clap(reference.config), **WEIGHT_MUTATIONS[mutation]), reference)


def bilinear(source, target):
    matrix = np.zeros((target, source), np.float32)
    position = np.arange(target) * (source - 1) / (target - 1)
    low = np.minimum(position.astype(int), source - 2)
    matrix[np.arange(target), low] = 1 - (position - low)
    matrix[np.arange(target), low + 1] = position - low
    return matrix


def merge_rows_first(source, grid_size, target):
    gather = grid.merge_gather(source, grid_size, target).reshape(-1, 4)
    return gather[:, [0, 2, 1, 3]].reshape(-1)


def tanh_gelu(x):
    return 0.5 * x * (1 + mx.tanh(0.7978845608 * (x + 0.044715 * x**3)))


CODE_MUTATIONS = {
    "no shift mask": ("shift_mask", lambda *a: grid.shift_mask(*a) * 0),
    "shift in the other direction": ("window_order", lambda g, w, s=0: grid.window_order(g, w, -s)),
    "no shift": ("window_order", lambda g, w, s=0: grid.window_order(g, w)),
    "merge order": ("merge_gather", merge_rows_first),
    "bilinear resize": ("bicubic_matrix", bilinear),
    "tanh GELU": ("gelu", tanh_gelu),
    "relative index transposed": ("relative_index", lambda w: grid.relative_index(w).T),
}


@pytest.mark.parametrize("mutation", CODE_MUTATIONS)
def test_the_check_notices_a_wrong_audio_tower(mutation, monkeypatch):
    reference = stored_reference("small")
    name, replacement = CODE_MUTATIONS[mutation]
    monkeypatch.setattr(htsat, name, replacement)
    assert failed(seeded_clap(reference.config), reference)


def test_the_check_notices_a_tanh_gelu_in_the_text_tower(monkeypatch):
    reference = stored_reference("small")
    monkeypatch.setattr(roberta, "gelu", tanh_gelu)
    assert any(name.startswith("text") for name in failed(seeded_clap(reference.config), reference))


@pytest.mark.parametrize("change", [{"f_min": 0.0}, {"bank": "htk"}])
def test_the_check_notices_a_wrong_mel_bank(change):
    reference = stored_reference("small")
    config = dataclasses.replace(reference.config, mel=dataclasses.replace(reference.config.mel, **change))
    assert any(name.startswith("log-mel") for name in failed(seeded_clap(config), reference))


def test_the_check_notices_fusion_applied_to_the_wrong_rows():
    reference = stored_reference("small-fused")
    reference.longer = ~reference.longer
    assert failed(seeded_clap(reference.config), reference)


def test_the_check_fails_on_numbers_that_are_not_finite():
    reference = stored_reference("small")
    clap = rewritten(seeded_clap(reference.config), fc2__bias=lambda b: b * float("nan"))
    assert failed(clap, reference)


def test_the_float32_front_end_of_a_gpu_moves_embeddings_less_than_the_end_to_end_bar():
    """It is MLX code, so it runs here too; only its rounding floor is higher."""
    from mlx_clap.mel import LogMel

    reference = stored_reference("small")
    clap = seeded_clap(reference.config)
    clap.log_mel = LogMel(reference.config.mel, double=False)
    checks = {c.name: c for c in check(clap, reference, CPU_FLOAT32)}
    assert all(c.ok for c in checks.values())
    assert checks["log-mel, within 80 dB of the loudest bin"].error < 1e-3
