"""Names and defaults that the weighting, the benchmark files and the commands share."""

FORMS = STANDARD, SIMPLER, PRECISE = ("standard", "simpler", "precise")  # Eq. 3-8; Eq. 10, 11; Eq. 12
ON_FAILED = ("fail", "exclude", "clip")
# How the models are made that weights are measured with (visatb/measure_section.py). The last one, contributions from
# gradients, is an approximation.
MEASURES = FULL_MEASURE, SHORT, LORA, PROXY, GRADIENT = ("full", "short", "lora", "proxy", "gradient")
MINI, BASE, FULL = "mini", "base", "full"  # models, as the rows of score tables name them

DEFAULT_TEMPERATURE = 0.5  # the paper's on Academic and Chat
DEFAULT_ALPHA = (0.25, 0.25, 0.5)
AUTO_TEMPERATURES = tuple(round(0.05 * n, 2) for n in range(1, 201))
AUTO_RANGE = (0.5, 2.0)
MIN_GAIN = 1e-3  # smaller gains are noise: one answer of a validation set of 1,000 moves a score by as much
CONFIDENCE = 0.95
