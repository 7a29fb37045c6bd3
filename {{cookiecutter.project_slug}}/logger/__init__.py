"""The log of a run: console, files, TensorBoard, trackers and figures."""
