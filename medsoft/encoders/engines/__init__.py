"""What computes an encoder on a CPU: PyTorch, ONNX Runtime or OpenVINO."""
