"""Shipping: one streaming graph for ONNX, sherpa-onnx and what comes; opening what was shipped."""
