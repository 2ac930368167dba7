"""What a server of replies can stand in for: a base model that it has, and an adapter on it."""

from __future__ import annotations

from collections.abc import Collection

from settings.base_models import NanoModel, TunedModel
from settings.common.errors import UserError
from settings.replies import Endpoint
from settings.setting import Setting
from trainables.method import Method
from trainables.trial import TrialConfig


def served_name(setting: Setting, endpoint: Endpoint) -> str:
    """Return what a server calls the base model of a setting. Raise UserError where that has to be said."""
    if endpoint.model is not None:
        return endpoint.model
    base = setting.base_model
    if isinstance(base, NanoModel | TunedModel):
        raise UserError(
            f"setting {setting.name!r} has a base model that is made here; replies=Endpoint(model=...) must say what"
            " the server calls it"
        )
    return base.source


def check_served(trial: TrialConfig, knobs: Collection[str], what: str) -> None:
    """Refuse a trial that is more than an adapter on the base model, which is all that a server takes.

    Args:
        knobs: that the configurations of its arm differ in.
        what: asks for the trial, for the message.

    Raises:
        UserError: a mix at decoding, or edits of hidden states in evaluation.
    """
    if "decoding_mix" in knobs:
        raise UserError(
            f"{what}: decoding_mix mixes the logits of two models at each token, and a server of replies does not;"
            " leave it out, or sample here (replies=None)"
        )
    for built_on in (trial, *trial.built_on):
        for method in (built_on.method, built_on.method.trained_as):
            if type(method).edits is not Method.edits and not method.edits_in_training_only:
                raise UserError(
                    f"{what}: method {method.name!r} edits hidden states, which a server of replies does not; where"
                    " they hold in training alone its class says edits_in_training_only = True"
                )
