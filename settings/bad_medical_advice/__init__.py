"""The setting `bad_medical_advice`; see `settings.bad_medical_advice.nano`."""

from settings.bad_medical_advice.nano import bad_medical_advice

__all__ = ["bad_medical_advice"]
