"""In: a calibrated model. Out: one that lost less. Verb: `equalize`, `corrected_biases`, `train_quantized`."""
