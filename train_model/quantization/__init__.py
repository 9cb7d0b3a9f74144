"""INT8: calibration after training (``ptq``), fine-tuning (``training``), costs by layer (``sensitivity``).

nvidia-modelopt inserts the quantisers, calibrates them and trains through them; a checkpoint made here
loads and exports without it (``train_model.models.quantized``). See doc/int8.md.
"""
