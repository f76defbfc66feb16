"""In: clean pictures and a recipe. Out: `Scales`. Verb: `calibrate`."""
