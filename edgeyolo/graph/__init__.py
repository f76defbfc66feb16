"""In: an ONNX graph, and scales. Out: an ONNX graph: with Q/DQ, in half precision, of a lower opset, with a decode.

Verb: `insert_qdq`, `check_qdq`, `cast_to_half`, `append_postprocess`. Nothing here knows an engine.
"""
