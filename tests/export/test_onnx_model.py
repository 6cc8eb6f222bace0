"""The ONNX files compute what Keras computes, for every configuration that trains, in the form that runtimes like."""

import types

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers, ops

from export.lint import lint_onnx
from export.onnx_model import motion_graph, part_inputs, to_onnx
from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from tests.export.conftest import make_contract, make_generator, run_keras
from tests.support.reference import gru, random_weights

TOLERANCE = 1e-4


def session_of(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(session, inputs):
    names = [output.name for output in session.get_outputs()]
    given = {item.name: inputs[item.name] for item in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))


def make_both(changes):
    """A contract and a generator that fits it."""
    of_networks = {"content_modulation", "modulate_from", "decoder", "still_background", "palette", "rotating_start"}
    of_networks |= {"motion_init_scale"}
    contract = make_contract(**{name: value for name, value in changes.items() if name not in of_networks})
    return contract, make_generator(contract, **{name: changes[name] for name in of_networks & set(changes)})


FINE = {"content_modulation": True, "decoder": "fine"}
CPU_PROFILE = {
    **FINE,
    "still_background": True,
    "palette": 8,
    "modulate_from": 16,
    "category_to": "both",
    "motion_init_scale": 0.5,
}


CONFIGURATIONS = [
    {"category_to": "motion", "image_size": 64},
    {"category_to": "image", "image_size": 32, "channels": 1},
    {"dim_category": 0, "image_size": 128},
    {"category_to": "motion", "image_size": 32, "content_modulation": True},
    {"category_to": "image", "image_size": 64, "content_modulation": True},
    {"dim_category": 0, "image_size": 32, "channels": 1},
    {"category_to": "image", "image_size": 128},
    {"category_to": "motion", "image_size": 32, "dim_motion": 1, "dim_content": 1, "dim_category": 1},
    {"category_to": "motion", "image_size": 64, "decoder": "fine", "content_modulation": True},
    {
        "category_to": "motion",
        "image_size": 64,
        "decoder": "fine",
        "content_modulation": True,
        "still_background": True,
    },
    {
        "category_to": "both",
        "image_size": 32,
        "decoder": "fine",
        "content_modulation": True,
        "still_background": True,
        "palette": 5,
        "rotating_start": True,
    },
    {
        "category_to": "both",
        "image_size": 64,
        "decoder": "fine",
        "content_modulation": True,
        "modulate_from": 16,
        "still_background": True,
        "rotating_start": True,
    },
    {"category_to": "both", "image_size": 32},
    {
        "category_to": "image",
        "image_size": 32,
        "decoder": "fine",
        "dim_motion": 4,
        "channels": 1,
        "still_background": True,
    },
]


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_configuration_gives_what_keras_gives(changes):
    contract, generator = make_both(changes)
    models = to_onnx(generator, contract, uint8=True)
    sessions = {role: session_of(model) for role, model in models.items()}
    for num_videos, num_frames in [(1, 1), (3, 5), (2, 16)]:
        latents = sample_latents(contract.latents, num_videos, num_frames, seed=num_frames)
        expected = run_keras(generator, latents)
        assert expected["video"].std() > 0.1  # Weights of realistic size: near-zero clips would prove nothing.
        whole = run(sessions["onnx"], latents)
        motion = run(sessions["motion"], latents)
        frames = run(sessions["frames"], {**latents, **motion})
        half = run(sessions["onnx_fp16"], latents)
        for found in (whole, frames | motion):
            np.testing.assert_allclose(found["video"], expected["video"], atol=TOLERANCE)
            np.testing.assert_allclose(found["motion_state"], expected["motion_state"], atol=1e-6)
        assert np.abs(half["video"] - expected["video"]).max() < 2e-2
        np.testing.assert_array_equal(half["motion_state"], whole["motion_state"])
        np.testing.assert_array_equal(run(sessions["onnx_uint8"], latents)["video_uint8"], to_uint8(whole["video"]))


@pytest.mark.parametrize("changes", CONFIGURATIONS[:5], ids=lambda changes: "-".join(map(str, changes.values())))
def test_graphs_have_no_fault(changes):
    contract, generator = make_both(changes)
    models = to_onnx(generator, contract, uint8=True)
    inputs, (to_motion, to_frames) = contract.inputs, part_inputs(contract)
    outputs, state = list(contract.outputs.values()), contract.motion_state
    everything = list(inputs.values())
    expected = {
        "onnx": (everything, outputs),
        "onnx_fp16": (everything, outputs),
        "onnx_uint8": (everything, [contract.video("video_uint8", "uint8"), state]),
        "motion": ([inputs[name] for name in to_motion], [contract.motion, state]),
        "frames": ([*(inputs[name] for name in to_frames), contract.motion], outputs[:1]),
        "frames_fp16": ([*(inputs[name] for name in to_frames), contract.motion], outputs[:1]),
    }
    assert set(models) == set(expected)
    for role, model in models.items():
        assert lint_onnx(model, *expected[role], contract) == []
    kinds = [node.op_type for node in models["onnx"].graph.node]
    assert kinds.count("GRU") == 1
    assert kinds.count("Add") == 1  # Content and motion.
    assert "BatchNormalization" not in kinds  # Folded, and so is the Mul that it arrives as.
    layers_scaled = {32: 3, 64: 4}[contract.image_size] if "content_modulation" in changes else 0
    assert (kinds.count("Mul"), kinds.count("Split")) == (layers_scaled, min(layers_scaled, 1))


@pytest.mark.parametrize(
    ("changes", "whole", "motion", "frames", "casts"),
    [
        ({}, 25, 10, 18, 3),
        ({"category_to": "image"}, 23, 6, 19, 3),
        ({"dim_category": 0}, 22, 6, 18, 3),
        ({"content_modulation": True}, 35, 10, 28, 3),
        (FINE, 58, 10, 51, 3),
        ({**FINE, "still_background": True}, 81, 10, 74, 3),
        ({**FINE, "still_background": True, "palette": 8}, 89, 10, 82, 3),
        (CPU_PROFILE, 88, 12, 79, 4),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_the_files_have_as_few_nodes_as_documented(changes, whole, motion, frames, casts):
    contract, generator = make_both({"image_size": 64, **changes})
    models = to_onnx(generator, contract)
    found = {role: len(model.graph.node) for role, model in models.items()}
    # In half precision the clip's code and the motion are cast before the decoder, and the video behind it; before a
    # background that is the content's alone, also the content, where that is not the clip's code.
    expected = {"onnx": whole, "motion": motion, "frames": frames}
    expected |= {"onnx_fp16": whole + casts, "frames_fp16": frames + casts}
    assert found == expected


@pytest.mark.parametrize("changes", [{}, {"category_to": "image"}], ids=["category to motion", "category to image"])
def test_a_clip_is_the_same_alone_in_a_batch_and_in_chunks(changes):
    contract = make_contract(**changes)
    session = session_of(to_onnx(make_generator(contract), contract)["onnx"])
    latents = sample_latents(contract.latents, 5, 9, seed=1)
    whole = run(session, latents)
    alone = run(session, {name: value[3:4] for name, value in latents.items()})
    state, videos = latents["motion_init"], []
    for first, last in [(0, 1), (1, 6), (6, 9)]:
        noise = latents["motion_noise"][:, first:last]
        chunk = run(session, {**latents, "motion_init": state, "motion_noise": noise})
        state = chunk["motion_state"]
        videos.append(chunk["video"])
    chunks = {"video": np.concatenate(videos, axis=1), "motion_state": state}
    for name, value in whole.items():
        np.testing.assert_allclose(alone[name], value[3:4], atol=5e-6)
        np.testing.assert_allclose(chunks[name], value, atol=5e-6)


def test_the_same_weights_give_the_same_bytes():
    contract = make_contract()
    generator = make_generator(contract)
    first, second = (to_onnx(generator, contract)["onnx"].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_motion_network_is_the_gru_of_the_paper():
    contract = make_contract(dim_category=0)
    generator = make_generator(contract)
    latents = sample_latents(contract.latents, 2, 7, seed=0)
    weights = [np.asarray(weight) for weight in generator.motion.cell.trainable_variables]
    expected = gru(latents["motion_noise"], latents["motion_init"], *weights)
    found = run(session_of(to_onnx(generator, contract)["motion"]), latents)
    np.testing.assert_allclose(found["motion"], expected, atol=1e-6)
    np.testing.assert_allclose(found["motion_state"], expected[:, -1], atol=1e-6)


def test_the_scale_of_the_first_state_goes_into_the_files():
    contract = make_contract()
    generator = make_generator(contract, motion_init_scale=0.3)
    latents = sample_latents(contract.latents, 2, 8, seed=0)
    expected = run_keras(generator, latents)
    models = {role: session_of(model) for role, model in to_onnx(generator, contract).items()}
    state, chunks = latents["motion_init"], []
    for noise in np.split(latents["motion_noise"], 2, axis=1):
        chunk = run(models["onnx"], {**latents, "motion_init": state, "motion_noise": noise})
        state = chunk["motion_state"]
        chunks.append(chunk["video"])
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), expected["video"], atol=TOLERANCE)
    np.testing.assert_allclose(state, expected["motion_state"], atol=1e-5)
    parts = run(models["motion"], latents)
    np.testing.assert_allclose(run(models["frames"], {**latents, **parts})["video"], expected["video"], atol=TOLERANCE)


def test_a_gru_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="reset_after=True"):
        motion_graph(types.SimpleNamespace(motion=layers.GRU(5, reset_after=False)), make_contract())


def chain_of_other_layers(first):
    """A decoder that shares no layer with the library's, from codes [N, 8] to pictures [N, 8, 8, 2]."""
    codes = keras.Input((8,))
    x = layers.Rescaling(0.5, offset=0.25)(codes) if first == "normalisation" else codes
    x = layers.Dense(4 * 4 * 6, activation="leaky_relu", bias_initializer="random_normal")(x)
    x = layers.Reshape((4, 4, 6))(x)
    x = layers.UpSampling2D()(x)
    x = layers.Conv2D(5, 3, padding="same")(x)
    norm = layers.BatchNormalization()
    x = layers.Activation("silu")(norm(x))
    decoder = keras.Model(codes, layers.Conv2D(2, 3, padding="same", activation="tanh")(x))
    norm.set_weights([np.linspace(0.5, 1.5, 5)] * 4)
    return decoder


class LowPassUp(layers.Layer):
    """Doubles a map by a 3x3 kernel that is joined with a 2x2 box into one of 4x4."""

    def __init__(self, filters):
        super().__init__()
        self.filters = filters

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, self.filters, shape[-1]), name="kernel")

    def call(self, x):
        padded = ops.pad(self.kernel, [[1, 1], [1, 1], [0, 0], [0, 0]])
        kernel = (padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1] + padded[:-1, :-1]) / 4
        return ops.conv_transpose(x, kernel, strides=2, padding="same")


def resampling_decoder(background):
    """Low-pass doubling, sums of colours enlarged bilinearly, biased layers at full size; perhaps a still background.

    From codes [N, 8], whose first five modulate, to pictures [N, 16, 16, 2].
    """
    codes = keras.Input((8,))
    x = layers.Conv2DTranspose(6, 4, use_bias=False)(layers.Reshape((1, 1, 8))(codes))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    colours = layers.Conv2D(2, 1)(x)
    for _ in range(2):
        x = layers.BatchNormalization()(LowPassUp(6)(x))
        x = layers.Multiply()([x, layers.Reshape((1, 1, 6))(layers.Dense(6)(codes[:, :5]))])
        x = layers.ReLU()(x)
        colours = layers.UpSampling2D(interpolation="bilinear")(colours) + layers.Conv2D(2, 1)(x)
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(x)
    frames = layers.Activation("tanh")(colours + layers.Conv2D(2, 3, padding="same")(x))
    if background:
        still = layers.Reshape((4, 4, 6))(layers.Dense(4 * 4 * 6, activation="relu")(codes[:, :5]))
        still = layers.Conv2DTranspose(4, 4, strides=2, padding="same", activation="relu")(still)
        still = layers.Conv2DTranspose(2, 4, strides=2, padding="same", activation="tanh")(still)
        mask = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
        frames = mask * frames + (1.0 - mask) * still
    decoder = keras.Model(codes, frames)
    random_weights(decoder, 0)
    for layer in decoder.layers:
        if isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose, layers.Dense, LowPassUp)):
            layer.kernel.assign(layer.kernel * 3)  # Clips use the whole range of values.
    return decoder


def made_gru(dim_input, units):
    gru = layers.GRU(units, return_sequences=True)
    gru.build((None, None, dim_input))
    return gru


DECODERS = {
    "other layers": lambda: chain_of_other_layers("product"),
    "other layers, normalised first": lambda: chain_of_other_layers("normalisation"),
    "resampling": lambda: resampling_decoder(background=False),
    "resampling over a still background": lambda: resampling_decoder(background=True),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_of_other_layers_is_converted_too(name):
    decoder = DECODERS[name]()
    size = decoder.output_shape[1]
    contract = make_contract(dim_category=0, dim_content=5, dim_motion=3, channels=2, image_size=size)
    generator = types.SimpleNamespace(motion=made_gru(3, 3), motion_init_scale=1, decoder=decoder, background=None)
    models = to_onnx(generator, contract, uint8=True)
    latents = sample_latents(contract.latents, 2, 3, seed=0)
    motion = run(session_of(models["motion"]), latents)["motion"]
    codes = np.concatenate([np.repeat(latents["content"][:, None], 3, axis=1), motion], axis=-1)
    expected = decoder.predict(codes.reshape(6, 8), verbose=0).reshape(2, 3, size, size, 2)
    limits = {"onnx": TOLERANCE, "frames": TOLERANCE, "onnx_fp16": 2e-2, "frames_fp16": 2e-2}
    for role, limit in limits.items():
        found = run(session_of(models[role]), {**latents, "motion": motion})
        np.testing.assert_allclose(found["video"], expected, atol=limit)
    inputs, outputs = list(contract.inputs.values()), list(contract.outputs.values())
    for role in ("onnx", "onnx_fp16"):
        assert lint_onnx(models[role], inputs, outputs, contract) == []
    if name.startswith("resampling"):
        assert expected.std() > 0.1
        kinds = [node.op_type for node in models["frames"].graph.node]
        assert kinds.count("Resize") == 2
        # The joined kernels are constants, normalisation is folded away, and the modulation is one product per clip.
        assert kinds.count("ConvTranspose") == (4 if "background" in name else 2)
        assert kinds.count("Split") == 1 and "Slice" not in kinds and kinds.count("Shape") == 1


def test_an_architecture_without_builder_is_named():
    with pytest.raises(ValueError, match="No ONNX export for model=other. Known: mocogan"):
        to_onnx(None, make_contract(model="other"))


def test_the_contract_stands_in_the_file():
    contract = make_contract(categories=("a", "b", "c"))
    model = to_onnx(make_generator(contract), contract)["onnx"]
    loaded = onnx.load_from_string(model.SerializeToString())
    found = session_of(loaded).get_modelmeta()
    assert found.custom_metadata_map == contract.metadata()
    assert (found.producer_name, found.version) == ("mocogan-tf", contract.version)
