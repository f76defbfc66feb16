"""In: raw head maps and the `Decode` that describes them. Out: candidate boxes. Verb: `decode`."""
