"""What a signature says of sound is checked before the first file is read, and errors name the setting."""

from __future__ import annotations

from typing import Any

import pytest

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.features.audio import LogMel
from feast_recsys.jobs.sound import sound_settings

SMALL: dict[str, Any] = {"rate": 8000, "n_fft": 256, "hop": 128, "mels": 16, "frames": 10}


def sound(max_length: int = 160, **settings: Any) -> Input:
    return Input("sound", "track:file", Side.ITEM, DType.FLOAT32, max_length, audio={**SMALL, **settings})


def test_settings_are_those_of_the_signature() -> None:
    assert sound_settings(sound(windows=2, max_length=320)) == LogMel(**SMALL, windows=2)


@pytest.mark.parametrize(
    ("wrong", "field", "told"),
    [
        ({"sample_rate": 8000}, "audio.sample_rate", "there are rate, n_fft"),
        ({"rate": "8000"}, "audio.rate", "must be a number"),
        ({"mels": True}, "audio.mels", "must be a number"),
        ({"hop": 0}, "audio.hop", "at least 1"),
        ({"fmax": 9000.0}, "audio.fmax", "must hold"),
        ({"frames": 20}, "max_length", "are 320 numbers, and max_length of sound is 160"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(wrong: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidSignature, match=told) as caught:
        sound_settings(sound(**wrong))
    assert caught.value.field == f"graphs.item_encoder.sound.{field}"
