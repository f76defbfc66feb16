"""In: what quantization, training and evaluation found, as their own structs. Out: pages, plots, `report.json`.

Verb: `write_report` of `report.quantization_page` and its like. Whatever is drawn or written as a page is here.
"""
