"""What Triton and KServe need beside model.onnx: the model's configuration, a compose file, an InferenceService."""

from __future__ import annotations

import pathlib

from export.contract import FILES, Contract, TensorSpec
from export.warmup import BATCH_SIZES

FOLDER = "triton"

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def write_triton(contract: Contract, folder: pathlib.Path) -> None:
    """Writes the pack into `folder` (`triton/` of a bundle)."""
    folder.mkdir()
    (folder / "config.pbtxt").write_text(model_config(contract))
    (folder / "docker-compose.yml").write_text(compose(contract))
    (folder / "kserve.yaml").write_text(inference_service(contract))


def model_config(contract: Contract) -> str:
    """Triton's config.pbtxt: shapes without the batch, which Triton adds; warm for every clip length."""
    inputs = ",\n".join(_tensor(spec) for spec in contract.inputs.values())
    outputs = ",\n".join(_tensor(spec) for spec in contract.outputs.values())
    warmups = ",\n".join(
        _warmup(contract, length, size) for length in contract.frame_buckets for size in (1, BATCH_SIZES[-1])
    )
    return f"""name: "{contract.name}"
platform: "onnxruntime_onnx"
max_batch_size: {BATCH_SIZES[-1]}
input [
{inputs}
]
output [
{outputs}
]
# Only requests of one clip length are joined.
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, BATCH_SIZES[1:]))} ]
  max_queue_delay_microseconds: 2000
}}
# 1 is HEURISTIC: an exhaustive search would run again for every new batch size or clip length.
parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}
model_warmup [
{warmups}
]
"""


def compose(contract: Contract) -> str:
    """A compose file that lays out Triton's model repository from the bundle without copying."""
    model = f"/models/{contract.name}"
    return f"""# TRITON_TAG=25.01-py3 docker compose up    (a release of nvcr.io/nvidia/tritonserver that was tried)
services:
  triton:
    image: nvcr.io/nvidia/tritonserver:${{TRITON_TAG:?set it to a release, such as 25.01-py3}}
    command: [tritonserver, --model-repository=/models, --exit-timeout-secs=30]
    ports: ["8000:8000", "8001:8001", "8002:8002"]  # HTTP, gRPC, metrics
    volumes:
      - ./config.pbtxt:{model}/config.pbtxt:ro
      - ../{FILES["onnx"]}:{model}/{contract.version}/model.onnx:ro
    restart: unless-stopped
    # For a GPU:
    # deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: 1, capabilities: [gpu]}}]}}}}}}
"""


def inference_service(contract: Contract) -> str:
    """KServe's InferenceService on its Triton runtime."""
    name = contract.name.replace("_", "-").replace(".", "-")
    return f"""# Expects a volume claim `{name}` that holds a Triton model repository:
#   {contract.name}/config.pbtxt                  triton/config.pbtxt of the bundle
#   {contract.name}/{contract.version}/model.onnx                 model.onnx of the bundle
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    minReplicas: 1
    model:
      modelFormat: {{name: onnx}}
      runtime: kserve-tritonserver
      protocolVersion: v2
      storageUri: pvc://{name}
      resources:
        requests: {{cpu: 2, memory: 2Gi}}
"""


def _tensor(spec: TensorSpec) -> str:
    dims = ", ".join("-1" if size == "time" else str(size) for size in spec.shape[1:])
    return f'  {{ name: "{spec.name}" data_type: {_TYPES[spec.dtype]} dims: [ {dims} ] }}'


def _warmup(contract: Contract, length: int, batch_size: int) -> str:
    inputs = []
    for spec in contract.inputs.values():
        dims = ", ".join(str(length if size == "time" else size) for size in spec.shape[1:])
        value = f"data_type: {_TYPES[spec.dtype]} dims: [ {dims} ] random_data: true"
        inputs.append(f'    inputs {{ key: "{spec.name}" value: {{ {value} }} }}')
    return "\n".join(
        ["  {", f'    name: "{length}_frames_batch_{batch_size}"', f"    batch_size: {batch_size}", *inputs, "  }"]
    )
