//! ONNX front end, driver and peregrinec.
