"""Autoencoders as families that the settings can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feast_recsys.models.autoencoders.deep import DeepAutoencoderConfig, build_deep_autoencoder
from feast_recsys.models.autoencoders.deep_training import fit_deep_autoencoder
from feast_recsys.models.autoencoders.multinomial import MultDaeConfig, MultVaeConfig, build_mult_dae, build_mult_vae
from feast_recsys.models.autoencoders.multinomial_training import fit_mult_dae, fit_mult_vae
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.retrieval.history_models import HistoryFamily, HistoryFit, Validate
from feast_recsys.models.training.loop import Course, Run


def _family(
    config: type[Any], build: Callable[[int, Any], Encoders], fit: Callable[..., tuple[Encoders, Course]]
) -> HistoryFamily:
    def fitted(
        histories: Histories, chosen: Any, run: Run, validate: Validate | None, epochs: int | None
    ) -> HistoryFit:
        encoders, course = fit(histories, chosen, run, validate=validate, epochs=epochs)
        return HistoryFit(encoders, chosen, course.best, course.values)

    return HistoryFamily(config, build, fitted, bias=1)


MULT_DAE = _family(MultDaeConfig, build_mult_dae, fit_mult_dae)
MULT_VAE = _family(MultVaeConfig, build_mult_vae, fit_mult_vae)
DEEP_AUTOENCODER = _family(DeepAutoencoderConfig, build_deep_autoencoder, fit_deep_autoencoder)
