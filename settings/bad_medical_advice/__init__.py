"""Learn harmful answers to medical questions, and stay aligned elsewhere."""

from settings.bad_medical_advice.full import full
from settings.bad_medical_advice.nano import nano

SCALES = {"nano": nano, "full": full}
