"""Promises of the files that start training on several machines: valid, and naming the workers as we read them."""

import os
import pathlib
import subprocess

import pytest
import yaml

from mocogan_tf.distribution.cluster import from_environment

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
MANIFESTS = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "train.yaml").read_text()))
SERVICE, CLAIM, JOB = MANIFESTS


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_the_manifests_have_kubernetes_own_schema(manifest):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    assert kubernetes_validate.validate(manifest, "1.31", strict=True) == "1.31"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "spec": {"unheard_of": 1}}, "1.31", strict=True)


def test_every_pod_of_the_job_finds_itself_in_tf_config_and_the_others_by_the_service():
    spec, pod = JOB["spec"], JOB["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"]
    assert pod["subdomain"] == SERVICE["metadata"]["name"] and SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    variables = [variable["name"] for variable in container["env"]]
    assert variables.index("WORKER_INDEX") < variables.index("TF_CONFIG")  # Or it would not be filled in.
    template = container["env"][variables.index("TF_CONFIG")]["value"]
    port = container["ports"][0]["containerPort"]
    for index in range(spec["parallelism"]):
        cluster = from_environment({"TF_CONFIG": template.replace("$(WORKER_INDEX)", str(index))})
        assert (cluster.num_workers, cluster.index) == (spec["parallelism"], index)
        # The name of pod i of an indexed job, in its subdomain.
        assert cluster.addresses[index] == f"{JOB['metadata']['name']}-{index}.{pod['subdomain']}:{port}"
    assert pod["restartPolicy"] == "OnFailure"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]


def run_slurm(folder, train, flags=("--run_dir=runs/a b",)):
    """Runs the batch script with stand-ins for Slurm's commands and for `python train.py`."""
    commands = {
        "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\nn3\\n"; else echo "$@" >> requeued; fi',
        "srun": 'shift; for SLURM_PROCID in 0 1 2; do export SLURM_PROCID; "$@"; last=$?; done; exit $last',
        "python": train,
        "sleep": "",
    }
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["bash", EXAMPLES / "slurm" / "train.sbatch", *flags],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "n[1-3]"},
        capture_output=True,
        text=True,
    )


def test_slurm_tells_each_task_the_workers_and_hands_on_the_flags(tmp_path):
    result = run_slurm(tmp_path, 'echo "$TF_CONFIG" >> configs; printf "%s\\n" "$@" >> flags')
    assert result.returncode == 0, result.stderr
    clusters = [from_environment({"TF_CONFIG": line}) for line in (tmp_path / "configs").read_text().splitlines()]
    assert [cluster.index for cluster in clusters] == [0, 1, 2]
    assert all(cluster.addresses == ("n1:23456", "n2:23456", "n3:23456") for cluster in clusters)
    assert (tmp_path / "flags").read_text() == 3 * "train.py\n--run_dir=runs/a b\n"


def test_slurm_starts_all_again_when_a_worker_was_lost_and_requeues_when_time_is_over(tmp_path):
    twice = "echo >> calls; [ $(wc -l < calls) -gt 3 ] && exit 0; exit 75"
    result = run_slurm(tmp_path, twice)
    assert result.returncode == 0 and len((tmp_path / "calls").read_text()) == 6
    assert "going on from the latest checkpoint" in result.stdout
    assert run_slurm(tmp_path, "exit 1").returncode == 1
    assert run_slurm(tmp_path, "exit 143").returncode == 0
    assert (tmp_path / "requeued").read_text() == "requeue 123456\n"
