//! Single-stage fine-tuning of ONNX models to polynomial activations (an empty seat).
