"""From torch modules to exported models: ONNX graphs that take raw Feast values, proved equal to the modules."""
