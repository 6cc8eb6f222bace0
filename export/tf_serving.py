"""What TensorFlow Serving needs beside the SavedModel: configuration, a compose file, Kubernetes manifests."""

from __future__ import annotations

import pathlib

from export.contract import Contract
from export.warmup import BATCH_SIZES

FOLDER = "tf_serving"


def write_tf_serving(contract: Contract, folder: pathlib.Path) -> None:
    """Writes the pack into `folder` (`tf_serving/` of a bundle)."""
    folder.mkdir()
    files = {
        "models.config": models_config(contract),
        "batching_parameters.txt": batching_parameters(),
        "monitoring.config": MONITORING,
        "docker-compose.yml": compose(contract),
        "kubernetes.yaml": kubernetes(contract, gpu=False),
        "kubernetes-gpu.yaml": kubernetes(contract, gpu=True),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def models_config(contract: Contract) -> str:
    """`--model_config_file`: the model's name and folder; of several versions the newest is served."""
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
    """`--batching_parameters_file`: the sizes are those that the warm-up records cover."""
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in BATCH_SIZES)
    return f"""# Requests of one signature are joined. Those of different clip lengths cannot be and fail together, so
# with batching on use the signatures of fixed length (serving_default, generate_<T>, seed, seed_uint8, seed_png).
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


def compose(contract: Contract) -> str:
    """A compose file for one machine; `--profile gpu` takes the GPU image."""
    arguments = "".join(f"    - {argument}\n" for argument in _ARGUMENTS)
    return f"""# docker compose --profile cpu up    (or --profile gpu)
# Then: curl -d '{{"signature_name": "seed_png", "instances": [7]}}' localhost:8501/v1/models/{contract.name}:predict
# Pin TF_SERVING_TAG to the release that was tried, not older than the TensorFlow of MODEL_CARD.md.
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
    name = contract.name.replace("_", "-").replace(".", "-")  # Kubernetes' names are DNS labels.
    image = "tensorflow/serving:latest" + ("-gpu" if gpu else "")
    resources = "limits: {nvidia.com/gpu: 1, memory: 8Gi}" if gpu else "requests: {cpu: 2, memory: 2Gi}"
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
      containers:
        - name: tf-serving
          image: {image}  # Pin the release that was tried.
          args:
{arguments}          ports:
            - {{name: grpc, containerPort: 8500}}
            - {{name: rest, containerPort: 8501}}
          # The status of the model: it answers once a version is loaded and warmed up.
          startupProbe:
            httpGet: {{path: /v1/models/{contract.name}, port: rest}}
            periodSeconds: 5
            failureThreshold: 60
          # The metadata, because the status page also answers for a version that failed or was unloaded.
          readinessProbe:
            httpGet: {{path: /v1/models/{contract.name}/metadata, port: rest}}
            periodSeconds: 5
          # TensorFlow Serving stops at once on SIGTERM: wait until no new requests are routed here.
          lifecycle:
            preStop:
              exec: {{command: ["sleep", "15"]}}
          resources:
            {resources}
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


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().split("\n"))
