"""Full-size models against transformers itself, on the same weights: `make parity`."""

import os
from pathlib import Path

import numpy as np
import pytest

from mlx_clap.backend import mx
from mlx_clap.seeded import seeded_ids, seeded_sound, seeded_weights
from mlx_clap.verify import CPU_FLOAT32, FULL_SIZE, check, log_mel_errors, seeded_clap, stored_reference

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def recordings() -> list[np.ndarray]:
    """Windows of real recordings from the folder MLXCLAP_TEST_RECORDINGS names (empty when it is not set)."""
    from mlx_clap.audio import Windower
    from mlx_clap_engine.decode import open_audio

    windows = []
    for path in sorted(Path(os.environ.get("MLXCLAP_TEST_RECORDINGS", "/nonexistent")).rglob("*.*")):
        if len(windows) >= 8 or path.suffix not in {".flac", ".opus", ".ogg", ".wav"}:
            continue
        windower = Windower()
        with open_audio(path) as stream:
            for block in stream.blocks():
                if ready := list(windower.push(block)):
                    break
            else:
                ready = list(windower.finish())
        windows += [window.samples for window in ready[:1]]
    return windows


@pytest.fixture(scope="module", params=FULL_SIZE)
def full_size(request):
    import reference

    config = reference.CONFIGS[request.param]
    weights = seeded_weights(config)
    return reference.reference_model(config, weights), config


def test_every_stage_of_a_full_size_model_equals_transformers(full_size):
    import reference

    model, config = full_size
    waveforms = np.stack([seeded_sound(seed) for seed in range(2)])
    live = reference.run(model, config, waveforms, seeded_ids(config))
    checks = check(seeded_clap(config), live, CPU_FLOAT32)
    for c in checks:
        print(f"{c.name}: {c.error:.1e} (bar {c.bar:.0e})")
    assert [c for c in checks if not c.ok] == []


def test_real_recordings_through_the_real_feature_extractor(full_size):
    import reference

    if "MLXCLAP_TEST_RECORDINGS" not in os.environ:
        pytest.skip("MLXCLAP_TEST_RECORDINGS names no folder of recordings")
    sounds = recordings()
    assert len(sounds) == 8
    model, config = full_size
    live = reference.run(model, config, np.stack(sounds), seeded_ids(config, seed=1))
    checks = [c for c in check(seeded_clap(config), live, CPU_FLOAT32) if c.name.startswith(("audio", "log"))]
    print(
        f"{len(sounds)} recordings",
        *(f"{c.name}: {c.error:.1e}" for c in checks if "embedding" in c.name or "log" in c.name),
    )
    assert [c for c in checks if not c.ok] == []


def test_the_stored_references_are_what_transformers_computes_today(full_size):
    import reference

    model, config = full_size
    name = next(n for n, c in reference.CONFIGS.items() if c == config)
    stored = stored_reference(name)
    live = reference.run(model, config, stored.waveforms, stored.ids)
    for ours, theirs in ((live.audio, stored.audio), (live.text, stored.text)):
        projection, embedding = (np.abs(ours[stage] - theirs[stage]).max() for stage in ("projection", "embedding"))
        assert projection / np.abs(theirs["projection"]).max() <= CPU_FLOAT32.projection
        assert embedding <= CPU_FLOAT32.embedding


def test_a_long_sound_as_the_real_extractor_fuses_it():
    """27 s through transformers' own fusion: shrunk overview and three random crops; flagged longer, and not."""
    import torch

    import reference

    config = reference.CONFIGS["fused"]
    weights = seeded_weights(config)
    model = reference.reference_model(config, weights)
    long = np.concatenate([seeded_sound(seed) for seed in (0, 2, 4)])[: 27 * 48_000]
    np.random.seed(0)  # the extractor draws its crops from the global generator
    made = reference.extractor(config)(long, sampling_rate=48_000, return_tensors="pt")
    features = made["input_features"]
    assert features.shape == (1, 4, 1001, 64) and bool(made["is_longer"].all())
    clap = seeded_clap(config)
    for longer in (True, False):
        with torch.no_grad():
            flags = torch.tensor([[longer]])
            pooled = model.audio_model(input_features=features, is_longer=flags).pooler_output
            theirs = model.audio_projection(pooled).numpy()
        ours = clap.audio_projection(clap.audio_tower(mx.array(features.numpy()), np.array([longer])))
        error = np.abs(np.array(ours) - theirs).max() / np.abs(theirs).max()
        print(f"fused, flagged longer {longer}: {error:.1e}")
        assert error < CPU_FLOAT32.projection


@pytest.mark.parametrize("bank", ["slaney", "htk"])
@pytest.mark.parametrize("double", [True, False])
def test_pure_tones_and_silence_through_the_front_end(bank, double):
    """The hardest input: a tone whose leakage falls under the rounding of a float32 transform (the one a GPU runs)."""
    import reference
    from mlx_clap.config import ClapConfig, MelConfig
    from mlx_clap.mel import LogMel

    config = ClapConfig(mel=MelConfig(bank=bank))
    time = np.arange(480_000) / 48_000
    tones = np.stack([a * np.sin(2 * np.pi * f * time) for a, f in ((0.5, 440.0), (0.01, 3000.0), (0.0, 1.0))])
    theirs = reference.log_mel(config, tones.astype(np.float32))
    ours = np.array(LogMel(config.mel, double)(mx.array(tones.astype(np.float32))))
    loud, rest = log_mel_errors(ours, theirs)
    print(f"{bank}, float64 {double}: {loud:.1e} dB within 80 dB of the loudest bin, {rest:.1e} dB elsewhere")
    assert np.array_equal(ours[2], theirs[2])  # silence is -100 dB exactly
    assert (loud, rest) < ((1e-4, 1e-4) if double else (5e-3, 0.6))
