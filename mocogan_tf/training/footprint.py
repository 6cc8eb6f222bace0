"""What a run will take: memory per device, disk per 1,000 steps, bytes sent between devices. For `--dry_run`.

Memory is what the networks' tensors need. The convolutions' scratch and the process itself come on top: what was
measured stands in docs/training.md.
"""

import dataclasses
import math

import tensorflow as tf

from mocogan_tf.gans.build import build_gan

# Operations that give out the memory they were given, or read a variable's in place.
_VIEWS = {
    "ExpandDims",
    "Identity",
    "IdentityN",
    "PreventGradient",
    "ReadVariableOp",
    "Reshape",
    "Squeeze",
    "StopGradient",
}
# Operations that write over an input that nobody else wants any more.
_IN_PLACE = {"AddV2", "AddN", "Mul", "Sub", "Neg", "Relu", "ReluGrad", "LeakyRelu", "LeakyReluGrad", "Tanh", "TanhGrad"}
# Bytes of a pixel in a sample's film (WebP and GIF) and strip (PNG), of a log line's and a curve's number. Rounded up
# from a run on the Tai-Chi clips.
_WEBP, _GIF, _PNG = 0.8, 0.75, 2.0
_LOG_LINE, _CURVE_POINT, _NUM_SCALARS = 320, 90, 8


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Args:
        weights: Of the trained networks.
        average: Of the generator's moving average.
        optimizers: Adam's moments.
        activations: The most that is alive at once within a step, gradients included.
    """

    weights: int
    average: int
    optimizers: int
    activations: int

    @property
    def total(self):
        return self.weights + self.average + self.optimizers + self.activations


def memory(config, num_replicas):
    """Estimates the memory of one device, by going through the operations of one traced step.

    Args:
        config: Resolved `Config`, precision included.
        num_replicas: Devices that share the batches.

    Returns:
        `Memory`. Convolutions' scratch space is not in it.
    """
    largest = {"video_batch": config.video_batch // num_replicas, "jit_compile": "off"}
    if config.model == "mocogan":
        largest["image_batch"] = config.image_batch // num_replicas
        largest["r1_every"] = 1  # The steps with the penalty are the large ones.
    share = dataclasses.replace(config, **largest)
    gan = build_gan(share, policy=config.precision)
    frame = (config.image_size, config.image_size, config.channels)
    batch = {
        "images": tf.TensorSpec((share.image_batch, *config.side_by_side, *frame), tf.float32),
        "videos": tf.TensorSpec((share.video_batch, config.video_length, *frame), tf.float32),
        "labels": tf.TensorSpec((share.video_batch,), tf.int32),
    }
    graph = tf.function(gan.train_step, autograph=False).get_concrete_function(batch).graph
    average = variable_bytes(gan.average.weights) if gan.average is not None else 0
    return Memory(
        weights=variable_bytes(gan.weights) - average,
        average=average,
        optimizers=sum(variable_bytes(optimizer.variables) for optimizer in gan.optimizers),
        activations=peak_of(graph) + sum(_size(tensor) for tensor in graph.inputs),
    )


def peak_of(graph):
    """Returns the most bytes of tensors that are alive at once, if operations run in the order they were made in.

    Args:
        graph: `FuncGraph`. Inputs are not counted, nor tensors whose shape is not known.
    """
    operations = graph.get_operations()
    root = {}  # Of a view, the tensor whose memory it is.
    last_use = {}
    for i, operation in enumerate(operations):
        for tensor in operation.inputs:
            last_use[root.get(tensor.ref(), tensor.ref())] = i
        if operation.type in _VIEWS and operation.inputs:
            source = operation.inputs[0].ref()
            for tensor in operation.outputs:
                root[tensor.ref()] = root.get(source, source)
    for tensor in graph.outputs:
        last_use[root.get(tensor.ref(), tensor.ref())] = len(operations)
    ends = {}
    for ref, i in last_use.items():
        ends.setdefault(i, []).append(ref)
    alive, now, peak = {}, 0, 0
    for i, operation in enumerate(operations):
        in_place = operation.type in _IN_PLACE
        ending = sum(alive.pop(ref, 0) for ref in ends.get(i, ())) if in_place else 0
        now -= ending
        if operation.type not in _VIEWS and operation.type != "Placeholder":
            for tensor in operation.outputs:
                if tensor.ref() in last_use:
                    alive[tensor.ref()] = _size(tensor)
                    now += alive[tensor.ref()]
        peak = max(peak, now)
        now -= sum(alive.pop(ref, 0) for ref in ends.get(i, ()))
    return peak


def _size(tensor):
    known = tensor.shape.is_fully_defined() and tensor.dtype not in (tf.resource, tf.variant, tf.string)
    return math.prod(tensor.shape.as_list()) * tensor.dtype.size if known else 0


def variable_bytes(variables):
    """Bytes of variables."""
    return sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables)


def gradient_bytes(gan):
    """Bytes that one device gives to the others per step: every network's gradients, once."""
    return sum(variable_bytes(network.trainable_variables) for network in gan.networks.values())


@dataclasses.dataclass(frozen=True)
class Disk:
    """Bytes of a run directory.

    Args:
        checkpoint: One checkpoint.
        kept: How many there are at most at once, the one being written included; a best one, too.
        growth: What 1,000 steps add: checkpoints that are kept for good, samples, logs and curves.
    """

    checkpoint: int
    kept: int
    growth: int


def disk(config, checkpoint_bytes):
    """Estimates what the run directory takes.

    Args:
        config: Resolved `Config`.
        checkpoint_bytes: Of all variables that a checkpoint holds.
    """
    for_good = checkpoint_bytes * 1000 / config.keep_every if config.keep_every else 0
    motions = min(max(4, config.dim_category), 8)
    pixels = 4 * motions * config.video_length * config.image_size**2
    sample = pixels * (4 * _WEBP + _GIF + _PNG)  # The WebP is twice as high and wide.
    lines = _LOG_LINE + _NUM_SCALARS * _CURVE_POINT
    growth = for_good + 1000 / config.sample_every * sample + 1000 / config.log_every * lines
    return Disk(int(checkpoint_bytes), config.keep_checkpoints + 1 + bool(config.evaluate_every), int(growth))


def describe(config, gan, num_replicas):
    """Returns lines about what a run will take.

    Args:
        config: Resolved `Config`, precision included.
        gan: Its `AdversarialModel`.
        num_replicas: Devices of all machines.
    """
    needed, room = memory(config, num_replicas), disk(config, variable_bytes(gan.state))
    lines = [
        f"memory per device: about {in_words(needed.total)} ({in_words(needed.weights)} weights, "
        f"{in_words(needed.average)} moving average, {in_words(needed.optimizers)} optimizers, "
        f"{in_words(needed.activations)} activations and gradients of {config.video_batch // num_replicas} clips"
        + (f" and {config.image_batch // num_replicas} images" if config.image_discriminator != "none" else "")
        + "), and the program itself",
        f"disk: {room.kept} checkpoints of {in_words(room.checkpoint)} at most at once"
        + (", those of --keep_every beside" if config.keep_every else "")
        + f"; {in_words(room.growth)} more per 1,000 steps",
    ]
    if num_replicas > 1:
        sent = gradient_bytes(gan)
        lines.append(f"between devices: {in_words(sent)} of gradients per step are summed over {num_replicas}")
    return lines


def in_words(number):
    """A number of bytes as people read it: 1,234 is "1.23 kB"."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
