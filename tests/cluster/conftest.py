"""What tests of TrainJobs and of submission share."""

import pytest
from loopback_kubernetes import kubeconfig, serving

from latefuse.cluster import kfp_auth, kfp_wait, kubernetes_api, submit, train_job, train_job_logs, train_job_watch
from latefuse.config import Job
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


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Everything that waits for a cluster waits a moment only; no trace of a pod in the environment."""
    monkeypatch.setattr(kubernetes_api, "PAUSE_S", 0.1)
    monkeypatch.setattr(kubernetes_api.connect, "__defaults__", (3.0,))
    monkeypatch.setattr(train_job_logs, "AGAIN_S", 0.05)
    monkeypatch.setattr(train_job_watch, "SLACK_S", 0.2)
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "home"))
    for name in ("KFP_POD_NAME", "KFP_POD_UID", "LATEFUSE_PIPELINE_RUN", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def launch(quick, tmp_path, where, monkeypatch):
    """`launch(cluster, **nodes)` runs a job on it; returns the folder of its output and the numbers that were heard."""
    for name in ("dataset", "backbone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(name)
        (tmp_path / name / "weights.safetensors").write_text(name)
    out = tmp_path / "out"
    out.mkdir()

    def run(cluster, **nodes):
        given = where({"poll_s": 0.05, **nodes}, timeout_s=2, volumes={str(tmp_path / "home"): "latefuse-workspace"})
        job = Job.model_validate({"name": "image", "seed": 0, "tasks": {}, "launcher": "trainjob", "nodes": 2,
                                  "processes": 8, "threads": 3})  # fmt: skip
        heard = []
        with serving(cluster) as host:
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, host)))
            start = train_job.launcher(given, "finetune-image")
            request = {name: str(tmp_path / name) for name in ("dataset", "backbone", "out")}
            work = tmp_path / "home" / "work" / "finetune-image" / "0123"
            start("latefuse.steps.finetune", request, job, work, lambda *told: heard.append(told))
        return out, heard

    return run


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No home, no kubeconfig, no pod, and nothing in the environment that says who we are; nobody waits long."""
    for name in (*kfp_auth.WAYS, *submit.HOSTS, submit.PAGES, "KUBERNETES_SERVICE_HOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(kfp_auth, "PROJECTED", tmp_path / "no-token")
    monkeypatch.setattr(kfp_wait, "PAUSE_S", 0.0)


DIGESTED = {}


@pytest.fixture
def compiled_once(monkeypatch, tmp_path_factory):
    """Pipelines of equal configurations are compiled once a session, and sources are digested once: a second each."""
    from pipelines import submit as sending

    digesting, compiling = sending.arguments, sending.compile_pipeline
    folder = tmp_path_factory.getbasetemp() / "compiled"

    def once(config, path):
        kept = folder / f"{config.digest}.yaml"
        if not kept.exists():
            compiling(config, kept)
        path.write_text(kept.read_text())
        return path

    def digested(config):
        if config.digest not in DIGESTED:
            DIGESTED[config.digest] = digesting(config)
        return dict(DIGESTED[config.digest])

    monkeypatch.setattr(sending, "compile_pipeline", once)
    monkeypatch.setattr(sending, "arguments", digested)
