"""MODEL_CARD.md: what people must know about a bundle before they use it."""

from __future__ import annotations

from typing import Any

from export.contract import LAYOUT, POSTPROCESS, Contract, TensorSpec

SAMPLE = "sample.gif"
_TAKES_CATEGORY = {
    "motion": "the motion network",
    "image": "the frame decoder",
    "both": "the motion network and the frame decoder",
}


def model_card(contract: Contract, provenance: dict[str, Any], checks: str) -> str:
    """Returns the card's text.

    Args:
        contract: The bundle's contract.
        provenance: `provenance` of bundle.json.
        checks: Table of the checks that the bundle passed.
    """
    config, data = provenance["config"], provenance["data"]
    categories = ", ".join(contract.categories) or (
        f"{contract.dim_category}, unnamed" if contract.dim_category else "none"
    )
    libraries = ", ".join(f"{name} {version}" for name, version in provenance["libraries"].items())
    return f"""# {contract.name}, version {contract.version}

![Clips of this bundle]({SAMPLE})

{_makes(contract)}, {contract.channels}-channel frames of {contract.image_size}x{contract.image_size} at \
{contract.fps:g} frames per second, trained on clips of {contract.video_length} frames. \
The architecture is {_ARCHITECTURES[contract.model]}.

| | |
|---|---|
| Categories | {categories} |
| Category enters | {_TAKES_CATEGORY[contract.category_to] if contract.dim_category else "-"} |
| Trained on | {data.get("name", "unknown")}{f", {data['num_clips']} clips" if "num_clips" in data else ""} |
| Training steps | {provenance["step"]}{_duration(provenance)} |
| Seed of the run | {config.get("seed", "unknown")} |
| Precision of training | {config.get("precision", "unknown")} |
| Weights | {"moving average of the generator's" if config.get("ema_decay") else "the generator's"} |
| Made with | {libraries} |
{_command(provenance)}{_scores(provenance)}{_metrics(provenance)}
## Inputs and outputs

| name | shape | type | draw from |
|---|---|---|---|
{_rows([*contract.inputs.values()])}
{_rows([*contract.outputs.values()])}

`video` is {LAYOUT} in [-1, 1]; {POSTPROCESS}.{_continuing(contract)} `bundle.json` is the same
for programs. A seed draws the inputs by Philox4x32-10; `golden.npz` holds test vectors.

## Use

```python
import json

import numpy as np
import onnxruntime

bundle = json.load(open("bundle.json"))
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
sizes = {{"batch": 1, "time": bundle["video_length"]}}
rng = np.random.default_rng(0)
inputs = {{}}
for spec in bundle["inputs"]:
    shape = [sizes.get(size, size) for size in spec["shape"]]
    if spec["distribution"] == "one_hot":
        inputs[spec["name"]] = np.eye(shape[1], dtype="float32")[[0]]
    elif spec["distribution"] == "uniform":
        inputs[spec["name"]] = rng.uniform(-1, 1, shape).astype("float32")
{_use_of_pictures(contract)}    else:
        inputs[spec["name"]] = rng.standard_normal(shape, "float32")
(video,) = session.run(["video"], inputs)  # [1, T, H, W, C] in [-1, 1]
```

TensorFlow Serving: `docker compose -f tf_serving/docker-compose.yml --profile cpu up`, then

```bash
curl -d '{{"signature_name": "seed_png", "instances": [7]}}' localhost:8501/v1/models/{contract.name}:predict
```

## Limits

* The model makes clips like its training clips and nothing else. The scores above, if any, tell how well.
* {_longer(contract)}
* The rights in the training clips decide what the weights may be used for. This bundle does not settle them.

## Proof

The export ran these checks; `python -m export.verify` repeats them.

```text
{checks}
```
"""


_ARCHITECTURES = {
    "mocogan": (
        "MoCoGAN\n(Tulyakov et al., CVPR 2018, arXiv 1707.04993): one content code per clip, one motion code per frame"
    ),
    "vgan": "VGAN\n(Vondrick et al., NIPS 2016, arXiv 1609.02612): a moving foreground over a still background",
    "tgan": "TGAN\n(Saito et al., ICCV 2017, arXiv 1611.06624): a path of codes in time, and a frame for each of them",
}


def _makes(contract: Contract) -> str:
    if contract.content_from == "pictures":
        return "Animates a picture, which becomes the first frame of a short video"
    return "Generates short videos"


def _continuing(contract: Contract) -> str:
    if "motion_state" not in contract.outputs:
        return ""
    return " `motion_state`, given as the next call's\n`motion_init`, continues the clip."


def _longer(contract: Contract) -> str:
    if contract.length != "time":
        return f"Every clip has {contract.length} frames."
    return (
        f"Clips longer than {contract.video_length} frames continue the motion; the model was never trained on their "
        "later part."
    )


def _use_of_pictures(contract: Contract) -> str:
    """Lines of the program that animate one of the bundle's own pictures."""
    if contract.content_from != "pictures":
        return ""
    return """\
    elif spec["distribution"] == "encoded":  # Of your own picture [H, W, C]: encode.onnx, image = picture / 127.5 - 1.
        inputs[spec["name"]] = np.load("contents.npz")["contents"][:1]
"""


def _duration(provenance: dict[str, Any]) -> str:
    seconds = provenance.get("training_seconds")
    return f", {seconds / 60:.0f} minutes" if seconds else ""


def _command(provenance: dict[str, Any]) -> str:
    if "command" not in provenance:
        return ""
    return f"\n## Trained with\n\n```bash\n{provenance['command']}\n```\n"


def _scores(provenance: dict[str, Any]) -> str:
    scores = provenance.get("scores") or {}
    if not scores:
        return ""
    rows = "\n".join(
        f"| {name} | {score['value']:.4g}{f' ± {error:.2g}' if (error := score['std_error']) else ''} "
        f"| {score['num_videos']} | {score['seed']} |"
        for name, score in scores.items()
    )
    return f"\n## Scored with evaluate.py\n\n| metric | value | clips | seed |\n|---|---|---|---|\n{rows}\n"


def _metrics(provenance: dict[str, Any]) -> str:
    metrics = provenance.get("metrics") or {}
    if not metrics:
        return ""
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in metrics.items())
    return f"\n## Recorded with the checkpoint\n\n| | |\n|---|---|\n{rows}\n"


def _rows(specs: list[TensorSpec]) -> str:
    lines = []
    for spec in specs:
        shape = ", ".join(map(str, spec.shape))
        lines.append(
            f"| `{spec.name}` | [{shape}] | {spec.dtype} | {spec.distribution.replace('_', ' ') or '(output)'} |"
        )
    return "\n".join(lines)
