"""The files under experiments/cluster/, against Ray's own schema; KubeRay's against the structure of its resource."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.tune.conftest import ROOT

CLUSTER = ROOT / "experiments" / "cluster"
BY_RAY = ["aws", "gcp", "local"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def test_every_file_is_checked_here() -> None:
    assert {path.stem for path in CLUSTER.glob("*")} == {*BY_RAY, "kuberay"}


@pytest.mark.parametrize("name", BY_RAY)
def test_ray_takes_the_file(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    assert config["provider"]["type"] == name
    with pytest.raises(Exception, match="unknown_entry"):
        validate_config(config | {"unknown_entry": 1})


@pytest.mark.parametrize("name", BY_RAY)
def test_nodes_get_the_code_and_the_token_and_nothing_large(name: str) -> None:
    config = read(name)
    mounts = dict(config["file_mounts"])
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for there, here in mounts.items():
        assert there == f"~/sfc-wsss/{here}" and (ROOT / here).exists()
    assert {"sfc", "tune", "experiments", "pyproject.toml"} <= set(mounts.values())
    assert not {"results", "data", ".git"} & set(mounts.values())
    setup = "\n".join(config["setup_commands"])
    assert "-e ~/sfc-wsss" in setup and "RAY_AUTH_MODE=token" in setup


@pytest.mark.parametrize("name", [*BY_RAY, "kuberay"])
def test_token_authentication_stays_on_and_no_secret_is_in_a_file(name: str) -> None:
    text = json.dumps(read(name))
    assert "token" in text and "disabled" not in text
    assert not any(word in text.lower() for word in ("password", "secret", "aws_access_key", "dashboard-host=0.0.0.0"))


def test_the_local_file_stops_no_other_ray() -> None:
    """`ray stop` ends every Ray of the account."""
    config = read("local")
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert not any("ray stop" in command for command in commands)
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2 and all("--temp-dir=/tmp/sfc-ray" in command for command in starts)
    assert "--port=6380" in starts[0] and "$RAY_HEAD_IP:6380" in starts[1]


def test_the_ray_job_has_the_structure_that_kuberay_asks_for() -> None:
    """Its schema is not at hand: this checks required entries and names that have to agree."""
    job = read("kuberay")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= {
        "entrypoint",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "backoffLimit",
        "submitterPodTemplate",
        "rayClusterSpec",
    }
    assert "tune/search.py --space msdw.yaml --results /shared" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"} and isinstance(cluster["rayVersion"], str)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] == "REGISTRY/sfc-wsss"
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert all(isinstance(amount, str) for amount in container["resources"]["limits"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
def test_images_have_the_ray_that_this_was_tried_with(name: str) -> None:
    """The image's tag is Ray's version; machines and laptop should not differ."""
    text = (CLUSTER / f"{name}.yaml").read_text()
    assert "rayproject/ray:2.60.0-py311-gpu" in text
    assert ray.__version__.split(".")[0] == "2"


def test_every_file_says_what_it_is_how_it_is_run_and_what_it_costs() -> None:
    for path in Path(CLUSTER).glob("*.yaml"):
        text = path.read_text()
        assert all(f"# {word}" in text for word in ("What: ", "Command", "Cost: ")), path.name
