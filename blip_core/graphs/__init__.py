"""Exported models in use: the engines that run graphs, on NumPy arrays and without PyTorch or TensorFlow.

`graph_models` has the heads, `graph_session` drives the search, `onnx_runtime` and `open_vino` run the graphs.
"""
