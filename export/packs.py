"""The packs of a bundle: what TensorFlow Serving, Triton and KServe need beside the model's files."""

from __future__ import annotations

import pathlib

from export.contract import BATCH_SIZES, FILES, Contract, TensorSpec

_TRITON_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def write_packs(contract: Contract, bundle: pathlib.Path) -> None:
    """Writes the folders `tf_serving` and `triton` of a bundle."""
    packs = {
        "tf_serving": {
            "models.config": models_config(contract),
            "batching_parameters.txt": batching_parameters(),
            "monitoring.config": MONITORING,
            "docker-compose.yml": tf_serving_compose(contract),
            "kubernetes.yaml": kubernetes(contract, gpu=False),
            "kubernetes-gpu.yaml": kubernetes(contract, gpu=True),
        },
        "triton": {
            "config.pbtxt": triton_config(contract),
            "docker-compose.yml": triton_compose(contract),
            "kserve.yaml": inference_service(contract),
        },
    }
    for folder, files in packs.items():
        (bundle / folder).mkdir()
        for name, text in files.items():
            (bundle / folder / name).write_text(text)


def models_config(contract: Contract) -> str:
    """`--model_config_file`: the model's name and folder. TensorFlow Serving loads the newest version only."""
    return f"""model_config_list {{
  config {{
    name: "{contract.name}"
    base_path: "/models/{contract.name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""


def batching_parameters() -> str:
    """`--batching_parameters_file`, with the batch sizes that the warm-up records cover."""
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in BATCH_SIZES)
    return f"""# Batching joins requests of one signature, and fails them together if their clip lengths differ.
# So use the signatures of fixed length (serving_default, generate_<T>, seed, seed_uint8, seed_png).
max_batch_size {{ value: {BATCH_SIZES[-1]} }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 64 }}
num_batch_threads {{ value: 2 }}
{sizes}"""


MONITORING = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

_ARGUMENTS = (
    "--model_config_file=/config/models.config",
    "--monitoring_config_file=/config/monitoring.config",
    "--enable_batching",
    "--batching_parameters_file=/config/batching_parameters.txt",
)


def tf_serving_compose(contract: Contract) -> str:
    """A compose file for one machine; `--profile gpu` takes the GPU image."""
    arguments = "".join(f"    - {argument}\n" for argument in _ARGUMENTS)
    return f"""# docker compose --profile cpu up    (or --profile gpu)
# Then: curl -d '{{"signature_name": "seed_png", "instances": [7]}}' localhost:8501/v1/models/{contract.name}:predict
# Set TF_SERVING_TAG to the release that you tested, at least as new as the TensorFlow in MODEL_CARD.md.
x-serving: &serving
  ports: ["8500:8500", "8501:8501"]  # gRPC, REST
  volumes:
    - ../saved_model:/models/{contract.name}:ro
    - .:/config:ro
  command:
{arguments}  restart: unless-stopped

services:
  cpu:
    <<: *serving
    image: tensorflow/serving:${{TF_SERVING_TAG:-latest}}
    profiles: [cpu]
  gpu:
    <<: *serving
    image: tensorflow/serving:${{TF_SERVING_TAG:-latest}}-gpu
    profiles: [gpu]
    deploy:
      resources:
        reservations:
          devices:
            - {{driver: nvidia, count: 1, capabilities: [gpu]}}
"""


def kubernetes(contract: Contract, gpu: bool) -> str:
    """A ConfigMap with the configuration, a Deployment and a Service."""
    name = _dns_label(contract)
    image = "tensorflow/serving:latest" + ("-gpu" if gpu else "")
    limits, requests = (
        ("nvidia.com/gpu: 1, memory: 8Gi", "memory: 2Gi") if gpu else ("memory: 4Gi", "cpu: 2, memory: 2Gi")
    )
    arguments = "".join(f"            - {argument}\n" for argument in _ARGUMENTS)
    return f"""# Expects a volume claim `{name}` that holds the bundle's folder `saved_model`.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
data:
  models.config: |
{_indented(models_config(contract))}
  batching_parameters.txt: |
{_indented(batching_parameters())}
  monitoring.config: |
{_indented(MONITORING)}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  replicas: {1 if gpu else 2}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "8501"
        prometheus.io/path: /monitoring/prometheus/metrics
    spec:
      terminationGracePeriodSeconds: 60
      automountServiceAccountToken: false
      securityContext:
        seccompProfile: {{type: RuntimeDefault}}
      containers:
        - name: tf-serving
          image: {image}  # Pin the release that you tested.
          args:
{arguments}          ports:
            - {{name: grpc, containerPort: 8500}}
            - {{name: rest, containerPort: 8501}}
          # The model's status, which answers once a version is loaded and warm.
          startupProbe:
            httpGet: {{path: /v1/models/{contract.name}, port: rest}}
            periodSeconds: 5
            failureThreshold: 60
          # The model's metadata, because its status also answers for a version that failed or was unloaded.
          readinessProbe:
            httpGet: {{path: /v1/models/{contract.name}/metadata, port: rest}}
            periodSeconds: 5
          # TensorFlow Serving stops at once on SIGTERM, so wait until no new requests are routed here.
          lifecycle:
            preStop:
              exec: {{command: ["sleep", "15"]}}
          resources:
            requests: {{{requests}}}
            limits: {{{limits}}}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}
          volumeMounts:
            - {{name: model, mountPath: /models/{contract.name}, subPath: saved_model, readOnly: true}}
            - {{name: config, mountPath: /config, readOnly: true}}
      volumes:
        - name: model
          persistentVolumeClaim: {{claimName: {name}, readOnly: true}}
        - name: config
          configMap: {{name: {name}}}
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  selector: {{app: {name}}}
  ports:
    - {{name: grpc, port: 8500, targetPort: grpc}}
    - {{name: rest, port: 8501, targetPort: rest}}
"""


def triton_config(contract: Contract) -> str:
    """Triton's config.pbtxt: shapes without the batch, which Triton adds; warm-up for every clip length."""
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
# Triton joins only requests of one clip length.
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, BATCH_SIZES[1:]))} ]
  max_queue_delay_microseconds: 2000
}}
# 1 is HEURISTIC. An exhaustive search would run again for every new batch size or clip length.
parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}
model_warmup [
{warmups}
]
"""


def triton_compose(contract: Contract) -> str:
    """A compose file that mounts the bundle's files as Triton's model repository."""
    model = f"/models/{contract.name}"
    return f"""# TRITON_TAG=25.01-py3 docker compose up    (a release of nvcr.io/nvidia/tritonserver that you tested)
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
    name = _dns_label(contract)
    return f"""# Expects a volume claim `{name}` that holds a Triton model repository:
#   {contract.name}/config.pbtxt: triton/config.pbtxt of the bundle
#   {contract.name}/{contract.version}/model.onnx: model.onnx of the bundle
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
    return f'  {{ name: "{spec.name}" data_type: {_TRITON_TYPES[spec.dtype]} dims: [ {dims} ] }}'


def _warmup(contract: Contract, length: int, batch_size: int) -> str:
    inputs = []
    for spec in contract.inputs.values():
        dims = ", ".join(str(length if size == "time" else size) for size in spec.shape[1:])
        value = f"data_type: {_TRITON_TYPES[spec.dtype]} dims: [ {dims} ] random_data: true"
        inputs.append(f'    inputs {{ key: "{spec.name}" value: {{ {value} }} }}')
    return "\n".join(
        ["  {", f'    name: "{length}_frames_batch_{batch_size}"', f"    batch_size: {batch_size}", *inputs, "  }"]
    )


def _dns_label(contract: Contract) -> str:
    """The model's name as Kubernetes allows it."""
    return contract.name.replace("_", "-").replace(".", "-")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().split("\n"))
