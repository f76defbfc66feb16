"""In: a quantized model. Out: what each part of it costs, and a mixture that costs less.

Verb: `measure_sensitivity`, `meet_budget`.
"""
