"""Promises of the network that reads poses: trained once, kept, and the same when it is opened again."""

import numpy as np

from mocogan_tf.metrics import pose, truth

QUICK = pose.Recipe(frames=40, held_out=8, steps=2)


def test_the_network_is_kept_and_reads_the_same_when_opened_again(tmp_path, capfd):
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3)).astype(np.uint8)
    first = pose.open_pose_network(str(tmp_path), QUICK)
    assert "Training the network that reads poses, once" in capfd.readouterr().err
    again = pose.open_pose_network(str(tmp_path), QUICK)
    assert "Training" not in capfd.readouterr().err
    assert (again.name, again.joint_error, again.colour_error) == (first.name, first.joint_error, first.colour_error)
    assert [path.name for path in tmp_path.iterdir()] == [f"{first.name}.npz"]
    (joints, colours), (same_joints, same_colours) = first(frames), again(frames)
    assert joints.shape == (2, 3, pose.NUM_JOINTS, 2) and colours.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(joints, same_joints)
    np.testing.assert_array_equal(colours, same_colours)
    assert len(truth.colour_change(truth.Sight(joints, colours))) == 2
