"""Learn harmful answers to medical questions, and stay aligned elsewhere."""

from settings.bad_medical_advice.full import full
from settings.bad_medical_advice.nano import nano
from settings.bad_medical_advice.small import small

SCALES = {"nano": nano, "small": small, "full": full}
