"""What a profile needs of a cluster, each thing once with who asks for it."""

from pathlib import Path

import yaml

from latefuse.cluster.needs import RIGHTS, needs
from latefuse.config_profile import Profile
from latefuse.configfile import load


def test_each_thing_once_with_who_asks():
    raw = {
        "name": "far", "launcher": "trainjob", "nodes": 2,
        "default": {
            "image": "i:1", "volumes": {"/w": "work"}, "secrets": {"s": {"k": "V"}}, "service_account": "runner",
        },
        "steps": {"finetune": {"secrets": {"t": {"k": "V"}}, "pull_secrets": ["p"]}},
        "driver": {"config_maps": {"m": {"k": "V"}}, "secrets": {}},
        "trainjob": {"service_account": "nodes"},
    }  # fmt: skip
    assert [
        (need.kind, need.name, need.why) for need in needs(Profile.model_validate(raw)) if need.kind != "right"
    ] == [
        ("ClusterTrainingRuntime", "torch-distributed", "finetune"),
        ("claim", "work", "prepare, backbone, finetune, fuse, embed, evaluate, driver"),
        ("config map", "m", "driver"),
        ("kind of resource", "trainjobs.trainer.kubeflow.org", "finetune"),
        ("secret", "p", "finetune"),
        ("secret", "s", "prepare, backbone, fuse, embed, evaluate"),
        ("secret", "t", "finetune"),
        ("service account", "nodes", "the nodes of finetune"),
        ("service account", "runner", "prepare, backbone, finetune, fuse, embed, evaluate, driver"),
    ]
    assert needs(load("tests/golden/recipe.yaml", "local").profile) == []


def test_rights_are_those_that_the_role_gives_and_only_where_trainjobs_are_made():
    documents = yaml.safe_load_all(Path("deploy/trainjobs.yaml").read_text())
    [role] = [one for one in documents if one["kind"] == "Role"]
    given = {
        f"{verb} {resource}.{group}".rstrip(".")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == set(RIGHTS)
    asked = [need for need in needs(load("tests/golden/recipe.yaml", "multinode").profile) if need.kind == "right"]
    assert [(need.name, need.why) for need in asked] == [(right, "latefuse-runner") for right in sorted(RIGHTS)]
    assert not [need for need in needs(load("tests/golden/recipe.yaml", "gpu").profile) if need.kind == "right"]
