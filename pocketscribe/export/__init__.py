"""Shipping: one streaming graph for ONNX, sherpa-onnx and whatever comes; opening what was shipped."""
