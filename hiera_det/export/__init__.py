"""Export: a detector, or its trunk and pyramid, as an ONNX or torch.export file.

`modules` is what is traced, `files` traces, compares and writes, `parity` compares; `postprocess`
(NumPy and Pillow alone, to be copied to a device) and `runtime` use the file. Nothing is imported
here: `hiera_det.export.runtime` needs neither torch nor Detectron2.
"""
