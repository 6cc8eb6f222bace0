"""One flat, frozen configuration. Each field declares its type, default, bounds and help; flags are made from them.

A run directory holds its configuration as `config.json`, and every later command reads it back from there.

A field's default may depend on the model. A field cannot be set where it does nothing: for a model that has no use for
it, or beside other fields that leave it idle.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Collection
from typing import Any, get_type_hints

from mocogan_tf import IMAGE_SIZES

AUTO = -1  # In an integer field: the value follows from the data.
AUGMENTATIONS = ("colour", "translation", "cutout")  # In the order in which they are applied.
MODELS = ("mocogan", "vgan", "tgan")
TASKS = ("generate", "image_to_video")
_MOCOGAN = ("mocogan",)
_FINE_MODULATED = ("decoder=fine", "content_modulation")
_MASKED = ("still_background", "mask_weight")
_OFF = (False, "", "none")  # Values, beside 0, with which a field counts as off.
_SIZES = f"{', '.join(map(str, IMAGE_SIZES[:-1]))} or {IMAGE_SIZES[-1]}"
# Groups of fields, each by the field that it begins with.
SECTIONS = {
    "dataset": "data",
    "model": "model",
    "category_loss": "objective",
    "learning_rate": "optimiser",
    "precision": "devices",
    "log_every": "what is written",
}


def _opt(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    below: float | None = None,
    only: tuple[str, ...] = MODELS,
    needs: tuple[str, ...] = (),
    acts_with: tuple[str, ...] = (),
    **by_model: Any,
) -> Any:
    """Declares a field of `Config`.

    Args:
        default: For all models that `by_model` does not name.
        help: Text of the flag's help.
        choices, minimum, below: Bounds.
        only: Models that have the field.
        needs: Conditions without which a value other than the default is refused: the name of a field that must be on,
            `name=value`, `no name`, or several of these with `or` between them.
        acts_with: Conditions without which the field does nothing. Then it has its default.
        **by_model: Defaults of single models.
    """
    defaults = {model: by_model.get(model, default) for model in MODELS}
    notes = [f"{' and '.join(only)} only"] * (only != MODELS)
    notes += [f"acts only with {' and '.join(acts_with)}"] * bool(acts_with)
    notes += [f"{model}: {defaults[model]}" for model in only if defaults[model] != default]
    metadata = {
        "help": help + (f" [{'; '.join(notes)}]" if notes else ""),
        "default": default,
        "choices": choices,
        "minimum": minimum,
        "below": below,
        "only": only,
        "needs": needs,
        "acts_with": acts_with,
        "defaults": defaults,
    }
    # None stands for a default that depends on the model, until the model is known.
    return dataclasses.field(default=None if by_model else default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run computes.

    Args:
        asked: Names of the fields that were asked for; None: all. If a value does nothing beside the others, it is an
            error where it was asked for, and becomes the default where it was not, as in a profile.

    Raises:
        ValueError: A field is out of its range, does nothing, or contradicts another.
    """

    asked: dataclasses.InitVar[Collection[str] | None] = None

    # Data.
    dataset: str = _opt("taichi", "Name of the data set; `folder` for your own clips.")
    data_dir: str = _opt("", "Folder or URI of the clips. Empty: the set is rendered, if this project can render it.")
    cache_dir: str = _opt("", "Folder that keeps decoded and rendered clips. Empty: the user's cache folder.")
    num_clips: int = _opt(4000, "Number of clips to render, for a rendered set.", minimum=1, acts_with=("no data_dir",))
    image_size: int = _opt(64, f"Height and width of a frame: {_SIZES}.")
    channels: int = _opt(3, "Colour channels: 3, or 1 for grey.")
    video_length: int = _opt(16, "Frames per clip, T.", minimum=4, vgan=32)
    every_nth: int = _opt(2, "Keep every n-th source frame when a clip is cut.", minimum=1, vgan=1)

    # Networks.
    model: str = _opt("mocogan", "Model to train: MoCoGAN, or one of the baselines VGAN and TGAN.", choices=MODELS)
    task: str = _opt(
        "generate",
        "What is learned: to make up clips, or to animate a given picture (`image_to_video`), which an encoder turns "
        "into content and a clip begins with. image_to_video needs decoder=fine and content_modulation.",
        choices=TASKS,
        only=_MOCOGAN,
        # Without modulation most of a picture's code does not reach the figure.
        needs=_FINE_MODULATED,
    )
    dim_content: int = _opt(
        50,
        "Size of the content code, which stays the same over a clip. With task=image_to_video it is encoded.",
        minimum=1,
        only=_MOCOGAN,
    )
    dim_motion: int = _opt(
        10, "Size of the motion code and of its noise; every frame has one.", minimum=1, only=_MOCOGAN
    )
    dim_category: int = _opt(
        AUTO,
        "Number of categories. -1: as many as the clips have, or 0 with category_loss=none.",
        minimum=AUTO,
        only=_MOCOGAN,
        vgan=0,
        tgan=0,
    )
    category_to: str = _opt(
        "motion",
        "Network that takes the category: the motion network (best in the paper), the frame decoder (authors' code), "
        "or both.",
        choices=("motion", "image", "both"),
        only=_MOCOGAN,
        acts_with=("dim_category",),
    )
    update_gate_bias: float = _opt(
        0.0,
        "Initial bias of the GRU's update gate. Above 0, motion is slow and smooth from the first step on.",
        only=_MOCOGAN,
    )
    motion_init_scale: float = _opt(
        1.0,
        "Standard deviation of the GRU's initial state. If it is far from that of the later states, a clip's first "
        "frames differ from the rest.",
        minimum=0.01,
        only=_MOCOGAN,
    )
    rotating_start: bool = _opt(
        False,
        "Start the GRU as slow oscillators that its noise hardly moves, so that there is movement from the first step "
        "on.",
        only=_MOCOGAN,
    )
    content_modulation: bool = _opt(
        False,
        "Let the content code also scale the decoder's channels, so that the content looks the same wherever it moves.",
        only=_MOCOGAN,
    )
    modulate_from: int = _opt(
        4,
        "Height of the smallest maps that content_modulation scales. Coarse maps decide on the pose: from 16 on, all "
        "contents share their poses.",
        only=_MOCOGAN,
        acts_with=("content_modulation",),
    )
    decoder: str = _opt(
        "dcgan",
        "Frame decoder: DCGAN's, or `fine`, which sums pictures of every size and draws at full resolution.",
        choices=("dcgan", "fine"),
        only=_MOCOGAN,
    )
    still_background: bool = _opt(
        False,
        "Give each clip one still background, drawn from its content alone, behind what moves (VGAN's composition). "
        "For clips of a camera that does not move. Needs decoder=fine.",
        only=_MOCOGAN,
        needs=("decoder=fine",),
    )
    palette: int = _opt(
        0,
        "Mix the figures of a clip from this many colours, which its content alone decides on, so that no movement "
        "changes them. 0: any colours.",
        minimum=0,
        only=_MOCOGAN,
        acts_with=_FINE_MODULATED,
    )
    ngf: int = _opt(
        64, "Filters of the generator's last hidden layer (TGAN, fine decoder: the last but one).", minimum=1
    )
    ndf: int = _opt(64, "Filters of the discriminators' first layer.", minimum=1)
    image_discriminator: str = _opt(
        "patch",
        "Image discriminator: one logit per patch, one per image, one per image with layers at full resolution "
        "(`fine`, which sees texture and has neither normalisation nor noise), or none.",
        choices=("patch", "full", "fine", "none"),
        only=_MOCOGAN,
        vgan="none",
        tgan="none",
    )
    discriminator_norm: str = _opt(
        "batch",
        "Normalisation in the discriminators: batch, spectral (Miyato et al. 2018), or none.",
        choices=("batch", "spectral", "none"),
        only=_MOCOGAN,
    )
    he_start: bool = _opt(
        False,
        "Start the video discriminator from He's weights instead of N(0, 0.02), which weaken the signal if there is no "
        "normalisation.",
        only=_MOCOGAN,
    )
    video_size: str = _opt(
        "full",
        "Size of the frames that the video discriminator sees: full, or half the height and width, with real frames "
        "averaged and generated ones taken from inside the decoder. Half needs decoder=fine.",
        choices=("full", "half"),
        only=_MOCOGAN,
        needs=("decoder=fine",),
    )
    image_frames: int = _opt(
        1,
        "Number of random frames of a clip that the image discriminator sees together.",
        minimum=1,
        only=_MOCOGAN,
        acts_with=("image_discriminator",),
    )
    early_frames: bool = _opt(
        False,
        "Show the image discriminator the early frames of generated clips more often; a quarter are first "
        "frames, which come out worst otherwise.",
        only=_MOCOGAN,
        acts_with=("image_discriminator",),
    )
    noise_sigma: float = _opt(
        0.1,
        "Standard deviation of the noise added before each layer of the discriminators.",
        minimum=0,
        only=_MOCOGAN,
        vgan=0.0,
        tgan=0.0,
    )

    # Objective.
    category_loss: str = _opt(
        "auto",
        "How categories are learned. `supervised`: the class head learns the real labels and judges the generator. "
        "`infogan`: class head and generator both learn from generated clips. `auto`: by whether clips have labels.",
        choices=("auto", "supervised", "infogan", "none"),
        only=_MOCOGAN,
        vgan="none",
        tgan="none",
    )
    category_weight: float = _opt(
        1.0,
        "Weight of the category loss, the paper's lambda.",
        minimum=0,
        only=_MOCOGAN,
        acts_with=("category_loss", "dim_category"),
    )
    conditional_video: bool = _opt(
        False,
        "Let the video discriminator ask whether a clip is a real one of its category, and not only whether it is real "
        "(Miyato and Koyama 2018).",
        only=_MOCOGAN,
        acts_with=("dim_category", "category_loss=supervised or category_loss=auto"),
    )
    r1_image: float = _opt(
        0.0,
        "Weight of the R1 penalty on the image discriminator (Mescheder et al. 2018); 0: off.",
        minimum=0,
        only=_MOCOGAN,
        acts_with=("image_discriminator",),
    )
    r1_video: float = _opt(
        0.0, "Weight of the R1 penalty on the video discriminator; 0: off.", minimum=0, only=_MOCOGAN
    )
    r1_every: int = _opt(
        16,
        "Steps between two R1 penalties; each is multiplied by this number.",
        minimum=1,
        only=_MOCOGAN,
        acts_with=("r1_image or r1_video",),
    )
    label_smoothing: float = _opt(
        0.0,
        "Lowers the discriminators' target for real clips from 1 to 1 minus this; 0: off.",
        minimum=0,
        below=1,
        only=_MOCOGAN,
    )
    augment: str = _opt(
        "",
        "Differentiable augmentation of the discriminators' input, the same for all frames of a clip (Zhao et al. "
        "2020): any of colour, translation, cutout, separated by commas. Empty: off.",
        only=_MOCOGAN,
    )
    share_fakes: bool = _opt(
        False,
        "Generate and judge clips once per step for all networks, which saves a seventh of the work. Off: every "
        "network gets clips of its own, in the authors' order.",
        only=_MOCOGAN,
    )
    mask_weight: float = _opt(
        0.1,
        "Weight of the sparsity penalty: the mean of the foreground mask, which VGAN always has.",
        minimum=0,
        only=("mocogan", "vgan"),
        acts_with=("still_background",),
    )
    mask_steps: int = _opt(
        0,
        "Steps over which mask_weight falls to zero. By then the background is settled, and figures need not be kept "
        "thin. 0: it stays.",
        minimum=0,
        only=_MOCOGAN,
        acts_with=_MASKED,
    )
    mask_allowance: float = _opt(
        0.0,
        "Share of the frame that figures may cover before their mask costs something, so that they are not kept thin.",
        minimum=0,
        below=1,
        only=_MOCOGAN,
        acts_with=_MASKED,
    )
    reconstruct_weight: float = _opt(
        10.0,
        "Weight of three mean absolute differences: of first frames to their pictures, of rebuilt frames of real "
        "clips, and of found poses.",
        minimum=0,
        only=_MOCOGAN,
        acts_with=("task=image_to_video",),
    )
    clip_every: int = _opt(
        5, "Steps between two clippings of the singular values of TGAN's critic.", minimum=1, only=("tgan",)
    )
    # Optimiser.
    learning_rate: float = _opt(2e-4, "Learning rate of the generator (Adam; TGAN: RMSprop).", minimum=0, tgan=5e-5)
    learning_rate_d: float = _opt(2e-4, "Learning rate of the discriminators.", minimum=0, tgan=5e-5)
    d_video_rate: float = _opt(
        1.0, "Learning rate of the video discriminator, as a multiple of learning_rate_d.", minimum=0
    )
    warmup_steps: int = _opt(0, "Steps over which the learning rates rise from zero; 0: none.", minimum=0)
    final_rate: float = _opt(
        1.0,
        "Share of themselves to which the learning rates fall over the run, on half a cosine; 1: they stay.",
        minimum=0,
    )
    beta_1: float = _opt(0.5, "Decay of Adam's first moment.", minimum=0, below=1, only=("mocogan", "vgan"))
    beta_2: float = _opt(0.999, "Decay of the second moment of Adam and RMSprop.", minimum=0, below=1, tgan=0.99)
    weight_decay: float = _opt(1e-5, "Weight decay of all networks; 0: off.", minimum=0, vgan=0.0, tgan=0.0)
    weight_decay_mode: str = _opt(
        "coupled",
        "Add weight decay to the gradient (`coupled`, as the authors) or to the update (`decoupled`, AdamW).",
        choices=("coupled", "decoupled"),
        acts_with=("weight_decay",),
    )
    ema_decay: float = _opt(
        0.999, "Decay of the generator's moving average, which is warmed up; 0: off.", minimum=0, below=1
    )
    steps: int = _opt(100_000, "Training steps in total.", minimum=1)
    image_batch: int = _opt(
        32,
        "Images per step, over all devices, for the image discriminator.",
        minimum=1,
        only=_MOCOGAN,
        acts_with=("image_discriminator",),
    )
    video_batch: int = _opt(32, "Clips per step, over all devices.", minimum=1, vgan=64)
    seed: int = _opt(0, "Seed of everything that is random.", minimum=0, below=2**32)

    # Devices: these change speed and rounding, not the method.
    precision: str = _opt(
        "auto",
        "Arithmetic of the networks; `auto`: the fastest that the device supports.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    jit_compile: str = _opt(
        "auto",
        "Compile losses and gradients with XLA; `auto`: on GPUs, unless several share batch statistics.",
        choices=("auto", "on", "off"),
    )
    steps_per_execution: int = _opt(
        1, "Steps per call into TensorFlow, on one device; several devices make one.", minimum=1
    )
    cpu_devices: int = _opt(1, "Virtual CPU devices to train on, to try several replicas without GPUs.", minimum=1)
    sync_batch_norm: bool = _opt(True, "Share the statistics of batch normalisation between replicas.")
    deterministic: bool = _opt(False, "Give bit-identical results on one machine, at some cost in speed.")

    # What is written.
    log_every: int = _opt(50, "Steps between two lines of log.jsonl.", minimum=1)
    sample_every: int = _opt(500, "Steps between two sample grids.", minimum=1)
    checkpoint_every: int = _opt(500, "Steps between two checkpoints.", minimum=1)
    keep_checkpoints: int = _opt(3, "Number of latest checkpoints to keep, besides the best one.", minimum=1)
    keep_every: int = _opt(0, "Also keep every checkpoint whose step is a multiple of this; 0: none.", minimum=0)
    evaluate_every: int = _opt(1000, "Steps between two scores of the generator; 0: never.", minimum=0)
    best_metric: str = _opt("auto", "Score that chooses the best checkpoint; `auto`: rank in distance, texture, class.")

    def __post_init__(self, asked: Collection[str] | None) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        _check_field("model", self.model, fields["model"].metadata)
        for name, field in fields.items():
            default = field.metadata["defaults"][self.model]
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)  # The way into a frozen dataclass.
            value = getattr(self, name)
            _check_field(name, value, field.metadata)
            if self.model not in field.metadata["only"] and value != default:
                raise ValueError(f"`{name}` does not apply to model={self.model}. Received: {name}={value}")
        for name, field in fields.items():  # In an order in which what a field depends on comes first.
            default, value = field.metadata["defaults"][self.model], getattr(self, name)
            if value == default:
                continue
            if missing := self._missing(field.metadata["needs"]):
                raise ValueError(f"`{name}={value}` needs {missing}")
            if missing := self._missing(field.metadata["acts_with"]):
                if asked is None or name in asked:
                    raise ValueError(f"`{name}={value}` does nothing: it acts only with {missing}")
                object.__setattr__(self, name, default)
        if self.image_size not in IMAGE_SIZES:
            raise ValueError(f"`image_size` must be {_SIZES}. Received: image_size={self.image_size}")
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 or 3. Received: channels={self.channels}")
        if self.discriminator_norm == "batch" and (self.r1_image or self.r1_video):
            raise ValueError(
                "R1 needs a gradient per image, but batch normalisation mixes the images. Set discriminator_norm=none, "
                f"or r1_image=0 and r1_video=0. Received: r1_image={self.r1_image}, r1_video={self.r1_video}"
            )
        unknown = sorted(set(self.augmentations) - set(AUGMENTATIONS))
        if unknown:
            raise ValueError(
                f"`augment` is a comma-separated choice of {', '.join(AUGMENTATIONS)}. Received: augment={self.augment}"
            )
        # DCGAN's decoder has no hidden map of full height.
        heights = [4 * 2**i for i in range(IMAGE_SIZES.index(self.image_size) + 3 + (self.decoder == "fine"))]
        if self.modulate_from not in heights:
            raise ValueError(
                f"`modulate_from` must be one of {', '.join(map(str, heights))}, the heights of the decoder's maps. "
                f"Received: modulate_from={self.modulate_from}"
            )
        if self.image_frames > self.video_length:
            raise ValueError(
                f"`image_frames` must be at most video_length={self.video_length}. "
                f"Received: image_frames={self.image_frames}"
            )
        if self.dim_category == 0 and self.category_loss not in ("auto", "none"):
            raise ValueError(
                f"`category_loss` must be none (or auto) when dim_category=0. Received: {self.category_loss}"
            )

    def _missing(self, conditions: tuple[str, ...]) -> str:
        """Says which conditions do not hold, and the values of their fields; "" if all that the model has do."""
        there, failed, received = set(fields_of(self.model)), [], []
        for condition in conditions:
            terms = condition.split(" or ")
            names = [term.removeprefix("no ").partition("=")[0] for term in terms]
            if set(names) <= there and not any(map(self._holds, terms)):
                failed.append(condition)
                received += [f"{name}={getattr(self, name)}" for name in names]
        return f"{' and '.join(failed)}. Received: {', '.join(received)}" if failed else ""

    def _holds(self, term: str) -> bool:
        name, equal, wanted = term.removeprefix("no ").partition("=")
        value = getattr(self, name)
        return (value == wanted if equal else value not in _OFF) != term.startswith("no ")

    def is_idle(self, name: str) -> bool:
        """Whether a field does nothing beside the others."""
        return bool(self._missing(self.__dataclass_fields__[name].metadata["acts_with"]))

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names in `augment`."""
        return tuple(name.strip() for name in self.augment.split(",") if name.strip())

    @property
    def source_frames(self) -> int:
        """Frames a source clip needs: `1 + (T - 1) * every_nth`."""
        return 1 + (self.video_length - 1) * self.every_nth

    @property
    def side_by_side(self) -> tuple[int, ...]:
        """Leading axis of a training image, before height, width and channels: `(k,)` for k frames, `()` for one."""
        return (self.image_frames,) if self.image_frames > 1 else ()

    def resolve_categories(self, num_categories: int) -> Config:
        """Returns the configuration with `dim_category` and `category_loss` settled for that many classes.

        Raises:
            ValueError: The labels contradict the configuration.
        """
        loss = self.category_loss
        dim = self.dim_category
        if dim == AUTO:
            dim = 0 if loss == "none" else num_categories
        if loss == "infogan" and not dim:
            raise ValueError(
                "`category_loss=infogan` on clips without labels needs --dim_category=K, the number of categories."
            )
        if loss == "auto":
            loss = "none" if not dim else "supervised" if num_categories == dim else "infogan"
        if loss == "supervised" and num_categories != dim:
            raise ValueError(
                f"`category_loss=supervised` needs clips of {dim} categories (dim_category); these have "
                f"{num_categories}. Set dim_category={num_categories}, or category_loss=infogan."
            )
        return dataclasses.replace(self, dim_category=dim, category_loss=loss, asked=())

    def to_json(self) -> str:
        """Returns the configuration as indented JSON: the fields that the model has, in the order of this class."""
        values = {name: getattr(self, name) for name in fields_of(self.model)}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, path: str | pathlib.Path) -> Config:
        """Reads a configuration that `to_json` wrote.

        A field that an older version lacked takes its default, and so does one that does nothing.

        Raises:
            ValueError: The file is missing, is no JSON object, or has unknown fields.
        """
        try:
            values = json.loads(pathlib.Path(path).read_text())
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
            names = {field.name for field in dataclasses.fields(cls)}
            unknown = sorted(set(values) - names)
        except (OSError, ValueError) as error:
            raise ValueError(f"Cannot read the configuration {path}: {error}") from error
        if unknown:
            raise ValueError(f"The configuration {path} has unknown fields: {', '.join(unknown)}.")
        return cls(**values, asked=())


def fields_of(model: Any) -> list[str]:
    """Returns the names of the fields that a model has, or all names if the model is unknown."""
    return [
        field.name for field in dataclasses.fields(Config) if model in field.metadata["only"] or model not in MODELS
    ]


# Fields that may change when a run is resumed: they decide how long, how fast and what is written, not the method.
# Those that decide which clips there are may change too, since the clips themselves are compared.
FREE_ON_RESUME = frozenset(
    {
        "steps",
        "data_dir",
        "num_clips",
        "cache_dir",
        "jit_compile",
        "steps_per_execution",
        "log_every",
        "sample_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "evaluate_every",
    }
)


def _check_field(name: str, value: Any, metadata: Any) -> None:
    expected = get_type_hints(Config)[name]
    if expected is float and type(value) is int:
        return _check_field(name, float(value), metadata)
    if type(value) is not expected:
        raise ValueError(f"`{name}` must be of type {expected.__name__}. Received: {name}={value!r}")
    choices, minimum, below = metadata["choices"], metadata["minimum"], metadata["below"]
    if choices and value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {name}={value}")
    if minimum is not None and not value >= minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Received: {name}={value}")
    if below is not None and not value < below:
        raise ValueError(f"`{name}` must be below {below}. Received: {name}={value}")


def differences(old: Config, new: Config) -> list[str]:
    """Returns a line `field: old -> new` for every field that makes two configurations different runs."""
    return [
        f"{field.name}: {getattr(old, field.name)} -> {getattr(new, field.name)}"
        for field in dataclasses.fields(Config)
        if field.name not in FREE_ON_RESUME and getattr(old, field.name) != getattr(new, field.name)
    ]
