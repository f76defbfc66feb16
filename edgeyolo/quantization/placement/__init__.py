"""In: the fx graph of a deploy form. Out: a `Placement`: which layers are int8, which tensors share a scale.

Verb: `find_placement`.
"""
