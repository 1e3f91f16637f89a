"""Sound files to log-mel spectrograms, against a transform written down plainly and tones of known pitch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument, InvalidSettings
from feast_recsys.features.audio import LogMel, crop, decode, log_mel, mel_bank, windows

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SMALL = LogMel(rate=8000, n_fft=256, hop=128, mels=20, frames=30)


def tone(hertz: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def plain_log_mel(wave: np.ndarray, config: LogMel) -> np.ndarray:
    """The formula of `log_mel`, by loops."""
    n = config.n_fft
    hann = np.array([0.5 - 0.5 * np.cos(2 * np.pi * k / n) for k in range(n)])
    transform = np.exp(-2j * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n)

    def mel(f: float) -> float:
        return 2595.0 * np.log10(1.0 + f / 700.0)

    edges = np.linspace(mel(config.fmin), mel(config.top), config.mels + 2)
    corners = [700.0 * (10.0 ** (edge / 2595.0) - 1.0) for edge in edges]
    rows = []
    for start in range(0, len(wave) - n + 1, config.hop):
        power = np.abs(transform @ (wave[start : start + n].astype(np.float64) * hann)) ** 2 / hann.sum() ** 2
        row = []
        for low, mid, high in zip(corners, corners[1:], corners[2:], strict=False):
            total = 0.0
            for k, p in enumerate(power):
                f = k * config.rate / n
                if low < f < high:
                    total += p * ((f - low) / (mid - low) if f <= mid else (high - f) / (high - mid))
            row.append(np.log(max(total, config.floor) / config.floor))
        rows.append(row)
    return np.array(rows)


def test_it_is_what_a_plainly_written_transform_gives() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 2000).astype(np.float32)
    np.testing.assert_allclose(log_mel(wave, SMALL), plain_log_mel(wave, SMALL), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [LogMel(), SMALL])
@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_peaks_in_the_band_whose_centre_is_nearest_in_mel(config: LogMel, hertz: int) -> None:
    heard = log_mel(tone(hertz, config.rate), config).mean(0)
    top = 2595 * np.log10(1 + config.rate / 2 / 700)
    expected = 2595 * np.log10(1 + hertz / 700) / top * (config.mels + 1) - 1
    assert abs(int(heard.argmax()) - expected) <= 1


def test_the_power_of_a_tone_is_all_there() -> None:
    # By Parseval the main lobe of the Hann window holds a^2 / 4 times (1 + 2 / 4); neighbouring triangles sum to 1.
    config = LogMel(rate=8000, n_fft=1024, hop=512, mels=20, frames=4)
    heard = log_mel(tone(1000, 8000, amplitude=0.5), config)
    np.testing.assert_allclose((np.exp(heard) * config.floor).sum(1), 0.5**2 / 4 * 1.5, rtol=1e-2)


def test_neighbouring_bands_sum_to_one_between_the_first_and_the_last_centre() -> None:
    config = LogMel()
    sums = mel_bank(config).sum(0)
    first, last = (int(mel_bank(config)[n].argmax()) for n in (0, -1))
    np.testing.assert_allclose(sums[first + 1 : last - 1], 1.0)


def test_silence_is_zero_and_nothing_is_below() -> None:
    assert (log_mel(np.zeros(4000, np.float32), SMALL) == 0).all()
    faint = log_mel(np.full(4000, 1e-30, np.float32), SMALL)
    assert (faint == 0).all()
    assert np.isfinite(log_mel(np.full(4000, 3e38, np.float32), SMALL)).all()


def test_a_wave_shorter_than_a_frame_is_filled_up_with_silence() -> None:
    wave = tone(1000, 8000, 0.01)
    np.testing.assert_array_equal(log_mel(wave, SMALL), log_mel(np.pad(wave, (0, 256 - len(wave))), SMALL))
    assert log_mel(np.zeros(0, np.float32), SMALL).shape == (1, 20)


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-3), ("flac", 1e-3), ("ogg", 0.1), ("mp3", 0.1)])
def test_every_format_gives_the_same_sound(tmp_path: Path, suffix: str, tolerance: float) -> None:
    wave = tone(440, 22050) + tone(2500, 22050, amplitude=0.2)
    file = tmp_path / f"tone.{suffix}"
    soundfile.write(file, wave, 22050)
    config = LogMel(floor=1e-5)
    original, heard = (log_mel(w, config)[2:18] for w in (wave, decode(file, 22050)))
    assert np.abs(original - heard).mean() < tolerance


def test_channels_are_averaged_and_the_rate_is_changed(tmp_path: Path) -> None:
    left, right = tone(500, 44100), tone(1500, 44100)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], 1), 44100, subtype="FLOAT")
    wave = decode(tmp_path / "two.wav", 8000)
    assert wave.dtype == np.float32
    assert len(wave) == pytest.approx(8000, abs=2)
    expected = (tone(500, 8000) + tone(1500, 8000)) / 2
    np.testing.assert_allclose(wave[500:7500], expected[500:7500], atol=2e-3)


def test_only_the_middle_of_a_long_file_is_read(tmp_path: Path) -> None:
    wave = np.concatenate([tone(500, 8000), tone(1000, 8000), tone(2000, 8000)])
    soundfile.write(tmp_path / "long.wav", wave, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "long.wav", 8000, seconds=1.0), tone(1000, 8000))


def test_files_that_are_no_sound_are_named(tmp_path: Path) -> None:
    broken, empty, text = tmp_path / "broken.ogg", tmp_path / "empty.wav", tmp_path / "notes.txt"
    broken.write_bytes(b"OggS and then nothing")
    soundfile.write(empty, np.zeros(0, np.float32), 8000)
    text.write_text("la la")
    for path, error in (
        (broken, CorruptArtifact),
        (empty, CorruptArtifact),
        (tmp_path / "missing.mp3", CorruptArtifact),
        (text, InvalidArgument),
    ):
        with pytest.raises(error, match=path.name):
            decode(path, 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), 8000, subtype="FLOAT")
    with pytest.raises(CorruptArtifact, match=r"nan\.wav.*finite"):
        decode(tmp_path / "nan.wav", 8000)


def test_a_missing_library_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", tone(500, 8000), 8000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(InvalidSettings, match=r"pip install feast-recsys\[audio\]"):
        decode(tmp_path / "a.wav", 8000)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 100), count=st.integers(1, 5), seed=st.integers(0, 1000))
def test_windows_and_crops_are_pieces_of_the_clip(length: int, count: int, seed: int) -> None:
    config = LogMel(rate=8000, n_fft=256, hop=128, mels=3, frames=30, windows=count)
    mel = np.repeat(np.arange(length, dtype=np.float32)[:, None], 3, 1)
    cut = windows(mel, config)
    assert cut.shape == (count, 30, 3)
    assert cut.size == config.length
    pieces = [*cut, crop(mel, config, np.random.default_rng(seed))]
    for piece in pieces:
        # Consecutive frames, from the beginning again where the clip ends.
        np.testing.assert_array_equal(np.diff(piece[:, 0]) % length, 1 % length)
    if length > 30 and count > 1:
        assert (cut[0, 0, 0], cut[-1, -1, 0]) == (0, length - 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mels": 0}, "mels"),
        ({"rate": 2.5}, "rate"),
        ({"floor": 0.0}, "floor"),
        ({"floor": float("nan")}, "floor"),
        ({"fmax": 20_000.0}, "fmax"),
        ({"fmin": 12_000.0}, "fmax"),
        ({"n_fft": 64, "mels": 128}, "mels"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        LogMel(**change)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_arrays_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="wave"):
        log_mel(np.zeros((2, 4000), np.float32), SMALL)
    with pytest.raises(InvalidArgument, match="wave"):
        log_mel(np.full(4000, np.inf, np.float32), SMALL)
    for mel in (np.zeros((0, 20), np.float32), np.zeros((5, 19), np.float32)):
        with pytest.raises(InvalidArgument, match="mel"):
            windows(mel, SMALL)
