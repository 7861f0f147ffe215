"""What tests of TrainJobs share."""

import pytest

from latefuse.config_profile import Resources
from latefuse.config_trainjob import Nodes


@pytest.fixture
def where():
    """`where(nodes={...}, **resources)`: where the nodes of a TrainJob stand, with a bit of everything."""
    from latefuse.cluster.train_job_where import Where

    def make(nodes=None, **resources):
        told = {
            "image": "registry.example/latefuse-gpu@sha256:" + "0" * 64,
            "cpu": "64",
            "memory": "512Gi",
            "gpu": 8,
            "shm": "64Gi",
            "timeout_s": 7200,
            "volumes": {"/workspace": "latefuse-workspace", "/models": "latefuse-models"},
            "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "secrets": {"latefuse-tracking": {"token": "MLFLOW_TRACKING_TOKEN"}},
            "config_maps": {"latefuse-settings": {"tracking-uri": "MLFLOW_TRACKING_URI"}},
            "pull_secrets": ["registry"],
            "env": {"LATEFUSE_HOME": "/workspace/latefuse", "HF_HOME": "/models/huggingface"},
        }
        return Where(
            nodes=Nodes.model_validate({"service_account": "latefuse-nodes", **(nodes or {})}),
            resources=Resources.model_validate({**told, **resources}),
        )

    return make
