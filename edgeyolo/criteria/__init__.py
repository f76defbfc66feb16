"""In: raw maps and the objects of a batch. Out: a `Loss`. Verb: a criterion is called, `criterion(maps, ...)`."""
