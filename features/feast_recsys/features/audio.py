"""Sound files as log-mel spectrograms: one function for training and for the job, so that they can't differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument, InvalidSettings

Wave = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float32]

EXTENSIONS = (".flac", ".mp3", ".ogg", ".wav")
MAX_SECONDS = 600.0
"""Most of a file that is ever decoded: longer ones are read from their middle."""

_BLOCK = 256  # frames transformed at once


@dataclass(frozen=True)
class LogMel:
    """How a wave becomes numbers. The defaults are the input of Dieleman's 2014 network for Spotify.

    Its sample rate and hop were not published; with these 30 s give 645 frames, of which 599 (27.8 s) are taken.

    Attributes:
        rate: Samples a second, after resampling.
        n_fft: Samples of a frame, under a Hann window.
        hop: Samples from one frame to the next.
        mels: Bands of the mel scale, triangles of equal width in mel.
        frames: Frames of a window, which is what the network sees at once.
        windows: Windows of an item; the network's vectors of them are averaged.
        floor: Power of a band below which there is silence; a full-scale sine has 0.1 to 0.4 in its band.
        fmin: Lower end of the lowest band, Hz.
        fmax: Upper end of the highest band, Hz; 0 for half the rate.
    """

    rate: int = 22050
    n_fft: int = 2048
    hop: int = 1024
    mels: int = 128
    frames: int = 599
    windows: int = 1
    floor: float = 1e-8
    fmin: float = 0.0
    fmax: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate", "n_fft", "hop", "mels", "frames", "windows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidSettings(f"{name} must be a whole number of at least 1, not {value!r}", field=name)
        if not (math.isfinite(self.floor) and self.floor > 0):
            raise InvalidSettings(f"floor must be above 0, not {self.floor}", field="floor")
        if not 0 <= self.fmin < self.top <= self.rate / 2:
            raise InvalidSettings(
                f"0 <= fmin < fmax <= {self.rate / 2:g} must hold, not {self.fmin:g} and {self.top:g}", field="fmax"
            )
        empty = int((mel_bank(self).sum(1) == 0).sum())
        if empty:
            raise InvalidSettings(
                f"{empty} of {self.mels} bands lie between two frequencies of the transform; take fewer mels or a "
                "longer n_fft",
                field="mels",
            )

    @property
    def top(self) -> float:
        """Upper end of the highest band, Hz."""
        return self.fmax or self.rate / 2

    @property
    def length(self) -> int:
        """Numbers of an item: windows * frames * mels."""
        return self.windows * self.frames * self.mels

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return ((self.frames - 1) * self.hop + self.n_fft) / self.rate


def decode(path: Path, rate: int, *, seconds: float = MAX_SECONDS) -> Wave:
    """Reads a sound file: ogg, flac, wav or mp3.

    Args:
        path: The file.
        rate: Samples a second of the result.
        seconds: No more than this is read, out of the middle of a longer file.

    Returns:
        [n] float32, the mean of all channels, mostly within -1 to 1.

    Raises:
        InvalidArgument: the name ends in none of EXTENSIONS, or `rate` or `seconds` is not above 0.
        CorruptArtifact: the file is missing, can't be decoded, holds no samples, or samples that are not finite.
        InvalidSettings: the libraries for sound are not installed.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise InvalidArgument(f"{path} is no sound file known here; those end in {', '.join(EXTENSIONS)}", field="path")
    if rate < 1 or not seconds > 0:
        raise InvalidArgument(f"rate and seconds must be above 0, not {rate} and {seconds}", field="rate")
    if not path.is_file():
        raise CorruptArtifact(f"there is no sound file {path}", field="path")
    soundfile, soxr = _libraries()
    try:
        with soundfile.SoundFile(path) as file:
            own = int(file.samplerate)
            wanted = math.ceil(seconds * own)
            if file.frames > wanted:
                file.seek((file.frames - wanted) // 2)
            samples = file.read(wanted, dtype="float32", always_2d=True)  # [n, channels]
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise CorruptArtifact(f"sound file {path} can't be decoded: {error}", field="path") from error
    if not len(samples):
        raise CorruptArtifact(f"sound file {path} holds no samples", field="path")
    if not np.isfinite(samples).all():
        raise CorruptArtifact(f"sound file {path} holds samples that are not finite", field="path")
    mono = samples.mean(axis=1, dtype=np.float32)
    wave = mono if own == rate else soxr.resample(mono, own, rate)
    return np.ascontiguousarray(wave, np.float32)


def log_mel(wave: Wave, config: LogMel) -> Mel:
    """The log-mel spectrogram: ln(max(band, floor) / floor), so that silence is 0 and nothing is below.

    With Hann window w and the transform X of a frame, P_k = |X_k|^2 / (sum of w)^2, and band_m is the sum of
    bank_mk P_k over k.

    Args:
        wave: [n] float32; one shorter than n_fft is filled up with silence.
        config: How.

    Returns:
        [T, mels] float32, T = 1 + (n - n_fft) // hop.

    Raises:
        InvalidArgument: `wave` is not [n], or holds numbers that are not finite.
    """
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise InvalidArgument(f"wave must be [n] finite numbers, not {wave.shape}", field="wave")
    if len(wave) < config.n_fft:
        wave = np.pad(wave, (0, config.n_fft - len(wave)))
    shape = np.lib.stride_tricks.sliding_window_view(wave, config.n_fft)[:: config.hop]  # [T, n_fft]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.n_fft) / config.n_fft)) if config.n_fft > 1 else np.ones(1)
    bank = mel_bank(config)
    result = np.empty((len(shape), config.mels), np.float32)
    for start in range(0, len(shape), _BLOCK):
        # In float64: a loud sample to the power of two overflows float32.
        spectrum = np.fft.rfft(shape[start : start + _BLOCK].astype(np.float64) * hann) / hann.sum()
        power = (spectrum.real**2 + spectrum.imag**2) @ bank.T
        result[start : start + _BLOCK] = np.log(np.maximum(power, config.floor) / config.floor)
    return result


@lru_cache(maxsize=16)
def mel_bank(config: LogMel) -> npt.NDArray[np.float64]:
    """[mels, n_fft // 2 + 1] triangles with peak 1, on the mel scale 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    ends = 2595.0 * np.log10(1.0 + np.array([config.fmin, config.top]) / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(ends[0], ends[1], config.mels + 2) / 2595.0) - 1.0)
    frequencies = np.arange(config.n_fft // 2 + 1) * config.rate / config.n_fft
    lower, centre, upper = (corners[n : n + config.mels, None] for n in range(3))
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    bank = np.maximum(0.0, np.minimum(rising, falling))
    bank.flags.writeable = False
    return bank


def windows(mel: Mel, config: LogMel) -> Mel:
    """The windows that stand for an item: evenly spaced from the beginning to the end, one alone in the middle.

    A clip shorter than a window is repeated until it fills one.

    Args:
        mel: [T, mels], T at least 1.
        config: How many, and how long.

    Returns:
        [windows, frames, mels] float32.

    Raises:
        InvalidArgument: `mel` is not [T, mels], or empty.
    """
    mel = _filled(mel, config)
    room = len(mel) - config.frames
    starts = [room // 2] if config.windows == 1 else np.linspace(0, room, config.windows).round().astype(int)
    return np.stack([mel[start : start + config.frames] for start in starts])


def crop(mel: Mel, config: LogMel, random: np.random.Generator) -> Mel:
    """[frames, mels] from a random moment, for training. Short clips are repeated, and errors are, as in `windows`."""
    mel = _filled(mel, config)
    start = int(random.integers(0, len(mel) - config.frames + 1))
    return mel[start : start + config.frames]


def _filled(mel: Mel, config: LogMel) -> Mel:
    if mel.ndim != 2 or mel.shape[1] != config.mels or not len(mel):
        raise InvalidArgument(f"mel must be [frames, {config.mels}], at least one frame, not {mel.shape}", field="mel")
    return np.tile(mel, (-(-config.frames // len(mel)), 1)) if len(mel) < config.frames else mel


def _libraries() -> tuple[Any, Any]:
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError: soundfile without its C library
        raise InvalidSettings(
            f"reading sound needs soundfile and soxr ({error}): pip install feast-recsys[audio]", field="audio"
        ) from error
    return soundfile, soxr
