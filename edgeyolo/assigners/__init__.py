"""In: predictions, and the objects of a batch. Out: which prediction answers for which object. Verb: `assign_*`.

One module per method, batched over pictures; assigning is never differentiated through.
"""
