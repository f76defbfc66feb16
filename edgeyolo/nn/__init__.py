"""In: numbers of channels. Out: blocks (B, C, H, W) -> (B, out_chs, H/s, W/s), fx-traceable. Verb: `fold.fold_model`.

A block that has a cheaper deploy form has `fold()`, which returns it: plain convolutions with bias and activations.
One block or family of blocks per file; nothing here knows a model, a loss or a data set.
"""
