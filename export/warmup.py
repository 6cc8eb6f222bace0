"""Warm-up records: requests that TensorFlow Serving runs while it loads a version, before it calls it available."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract import Contract, TensorSpec
from mocogan_tf.latents import sample_latents

FILE = pathlib.PurePath("assets.extra/tf_serving_warmup_requests")
BATCH_SIZES = (1, 2, 4, 8)  # Those that tf_serving/batching_parameters.txt allows.

Array = NDArray[Any]


def sample_inputs(inputs: dict[str, TensorSpec], contract: Contract, num_videos: int, seed: int) -> dict[str, Array]:
    """Draws a request for one signature: clips of a free length get the trained one.

    Args:
        inputs: The signature's.
        contract: The bundle's.
        num_videos: Clips, B.
        seed: Of the latents; a signature that takes seeds gets `seed`, `seed + 1`, ...
    """
    if "seed" in inputs:
        return {"seed": np.arange(seed, seed + num_videos, dtype=np.int64)}
    length = inputs["motion_noise"].shape[1] if "motion_noise" in inputs else contract.length
    num_frames = length if isinstance(length, int) else contract.video_length
    latents = sample_latents(contract.latents, num_videos, num_frames, seed=seed)
    if "motion_state" in inputs:
        latents["motion_state"] = latents.pop("motion_init")
    return {name: latents[name] for name in inputs}


def write_warmup(contract: Contract, signatures: dict[str, dict[str, TensorSpec]], folder: pathlib.Path) -> None:
    """Writes one record per signature and allowed batch size.

    Args:
        contract: The bundle's.
        signatures: Inputs of every signature.
        folder: The SavedModel's version folder.
    """
    import tensorflow as tf

    predict_pb2, prediction_log_pb2 = _protos()
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs in signatures.items():
            for num_videos in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = contract.name
                request.model_spec.signature_name = name
                for key, value in sample_inputs(inputs, contract, num_videos, seed=0).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())


def read_warmup(folder: pathlib.Path) -> list[tuple[str, dict[str, Array]]]:
    """Returns the records of a version folder as (signature, inputs)."""
    import tensorflow as tf

    _, prediction_log_pb2 = _protos()
    records = []
    for serialized in tf.data.TFRecordDataset(str(folder / FILE)):
        request = prediction_log_pb2.PredictionLog.FromString(serialized.numpy()).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        records.append((request.model_spec.signature_name, inputs))
    return records


def _protos() -> tuple[Any, Any]:
    # Here, because they import TensorFlow.
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    return predict_pb2, prediction_log_pb2
