"""NumPy twins of what the networks compute, in float64, and weights that do not depend on any generator of numbers."""

import numpy as np


def ramp_weights(model):
    """Sets every weight to a fixed ramp, so that outputs depend only on the architecture.

    Positive, because some of these are the variances of batch normalisation.
    """
    model.set_weights([np.linspace(0.01, 0.1, w.size, dtype="float32").reshape(w.shape) for w in model.get_weights()])


def random_weights(model, seed=0):
    """Sets weights that keep activations of order one, moving statistics included: fresh ones are all but zero."""
    rng = np.random.default_rng(seed)
    values = []
    for variable in model.weights:
        if "variance" in variable.path or "gamma" in variable.path:
            values.append(rng.uniform(0.5, 1.5, variable.shape))
        else:
            # About what one output adds up: exact for dense and plain convolutions, near enough for transposed ones.
            shape = variable.shape
            fan_in = np.prod(shape[:-1])
            values.append(rng.normal(size=shape) / np.sqrt(max(fan_in, 1.0)))
    model.set_weights(values)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def gru(inputs, state, kernel, recurrent_kernel, bias):
    """The GRU of Cho et al. 2014 in the variant that cuDNN, PyTorch and Keras (`reset_after=True`) compute.

    With x_t the input, h the state, and W, U, b, c the columns of kernel, recurrent kernel and the two biases:
        z = sigmoid(W_z x + b_z + U_z h + c_z)
        r = sigmoid(W_r x + b_r + U_r h + c_r)
        n = tanh(W_h x + b_h + r * (U_h h + c_h))
        h' = z * h + (1 - z) * n

    Args:
        inputs: `[B, T, D]`.
        state: `[B, H]`.
        kernel: `[D, 3 H]`, columns in the order z, r, h.
        recurrent_kernel: `[H, 3 H]`.
        bias: `[2, 3 H]`.

    Returns:
        states `[B, T, H]`.
    """
    inputs, state, kernel, recurrent_kernel, bias = (
        np.asarray(x, np.float64) for x in (inputs, state, kernel, recurrent_kernel, bias)
    )
    states = []
    for t in range(inputs.shape[1]):
        from_input = np.split(inputs[:, t] @ kernel + bias[0], 3, axis=-1)
        from_state = np.split(state @ recurrent_kernel + bias[1], 3, axis=-1)
        update = _sigmoid(from_input[0] + from_state[0])
        reset = _sigmoid(from_input[1] + from_state[1])
        candidate = np.tanh(from_input[2] + reset * from_state[2])
        state = update * state + (1.0 - update) * candidate
        states.append(state)
    return np.stack(states, axis=1)


def discriminator_loss(real_logits, fake_logits):
    """`-mean log D(x) - mean log(1 - D(G(z)))`, by the sigmoid itself."""
    real, fake = _sigmoid(np.asarray(real_logits, np.float64)), _sigmoid(np.asarray(fake_logits, np.float64))
    return -np.mean(np.log(real)) - np.mean(np.log(1.0 - fake))


def generator_loss(fake_logits):
    """`-mean log D(G(z))`, by the sigmoid itself."""
    return -np.mean(np.log(_sigmoid(np.asarray(fake_logits, np.float64))))


def category_loss(class_logits, labels):
    """Cross-entropy by the softmax itself; `[B, P, K]` logits, integer labels `[B]`."""
    exponentials = np.exp(np.asarray(class_logits, np.float64))
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return -np.mean([np.log(probabilities[i, :, label]) for i, label in enumerate(labels)])
