"""In: a file of weights that somebody else published. Out: its tensors, in a network of ours.

Verb: `read_weights`, `place_weights`. Nothing in a file is run.
"""
