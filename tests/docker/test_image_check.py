"""The parts of `make image-check` that need neither root nor a builder; the check itself builds and runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import image_check, oci_step


def test_pips_settings_are_lent_and_the_environment_wins(tmp_path):
    wheels, certificate = tmp_path / "wheels", tmp_path / "ca.crt"
    index = tmp_path / "mirror" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    certificate.write_text("")
    listed = "\n".join(
        [
            f":env:.cert='{certificate}'",
            ":env:.no-input='1'",
            f"global.cert='{tmp_path}/old.crt'",
            f"global.find-links='{wheels} /not/there'",
            f"global.extra-index-url='file://{index} https://index.example/simple'",
            "install.user='true'",
        ]
    )
    text, places = image_check.pip_settings(listed)
    assert text.splitlines() == [
        "[global]",
        f"cert = {certificate}",
        f"extra-index-url = file://{index} https://index.example/simple",
        f"find-links = {wheels} /not/there",
    ]
    assert places == sorted([str(certificate), str(wheels), str(index.parent)])


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(image_check.shutil, "which", lambda name: None if name == "buildah" else f"/bin/{name}")
    assert "buildah not found: apt-get install" in image_check.missing()
    monkeypatch.setattr(image_check.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(image_check, "_is_root", lambda: False)
    assert "root" in image_check.missing()
    with pytest.raises(SystemExit, match="root"):
        image_check.main()


def test_a_failing_command_ends_the_check_with_what_it_said():
    with pytest.raises(SystemExit, match=r"(?s)no such base.*ended with 3"):
        image_check.call("sh", "-c", "echo no such base; exit 3", quiet=True)


def given(graph, name):
    command, _ = graph.started(name)
    return json.loads(command[command.index("--executor_input") + 1])


def test_steps_are_started_as_the_compiled_pipeline_starts_them():
    graph = oci_step.graph(Path.cwd())
    command, env = graph.started("prepare")
    assert command[:2] == ["sh", "-ec"]
    assert "kfp.dsl.executor_main" in command[2]
    config = json.loads(given(graph, "prepare")["inputs"]["parameterValues"]["config"])
    assert config["options"] == {"dishes": 24, "users": 6}
    assert env["LATEFUSE_HOME"] == "/workspace/latefuse"
    assert any(env["HF_HOME"].startswith(root) for root in oci_step.VOLUME_ROOTS)


def test_a_step_gets_what_those_before_it_put_out():
    graph = oci_step.graph(Path.cwd())
    assert set(graph.order) == set(graph.tasks)
    for name in graph.order:
        assert set(graph.tasks[name].get("dependentTasks", ())) <= set(graph.done)
        asked = given(graph, name)
        assert "{{$" not in json.dumps(asked)
        made = asked["outputs"]["artifacts"]
        graph.done[name] = {"parameterValues": {"Output": f"digest of {name}"}, "artifacts": made}
    inputs = given(graph, "evaluate")["inputs"]
    assert inputs["artifacts"]["dataset"]["artifacts"][0]["uri"] == "minio://check/prepare/out"
    arms = [inputs["artifacts"][f"finetuned_{number}"]["artifacts"][0]["uri"] for number in range(3)]
    assert arms == [f"minio://check/finetune-{name}/out" for name in ("image", "video", "text")]
    told = inputs["parameterValues"]["inputs"]
    assert all(f"digest of {name}" in told for name in graph.order if name != "evaluate")


def test_the_runtime_is_told_to_allow_nothing(tmp_path):
    said = {"Env": ["PATH=/bin", "HOME=/tmp"], "WorkingDir": "/tmp"}
    made = oci_step.spec("/root-fs", said, ["true"], {"HOME": "/volume"}, 4711, {"/tmp": tmp_path})
    assert made["root"] == {"path": "/root-fs", "readonly": True}
    assert made["process"]["user"] == {"uid": 4711, "gid": 0}
    assert made["process"]["capabilities"] == {}
    assert made["process"]["noNewPrivileges"] is True
    assert made["process"]["env"] == ["PATH=/bin", "HOME=/volume"]
    assert {"type": "network"} in made["linux"]["namespaces"]
    writable = [one["destination"] for one in made["mounts"] if one["type"] == "bind"]
    assert writable == ["/tmp"]


def test_the_probe_sees_a_root_that_can_be_written(tmp_path):
    """Without it a probe that never finds anything would pass for a read-only root."""
    source = Path("scripts/image_probe.py").read_text().replace('"/usr"', f'"{tmp_path}"')
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", source], env=environment, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert str(tmp_path) in told["written"]
    assert told["home"] is True
