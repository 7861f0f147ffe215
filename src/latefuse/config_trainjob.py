"""How a profile's Kubeflow TrainJob is made and waited for, and how long a hung training may stand still."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latefuse.sections import Section

NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


class Nodes(Section):
    """What a TrainJob is told beside the resources of `finetune`, whose timeout_s is the job's own deadline.

    runtime: of Kubeflow Trainer 2.2 or newer, whose trainer is the replicated job and container `node`. namespace: that
    of the pod which makes the job, by default. service_account: of the training pods, which need no right at all.
    poll_s: seconds between two looks at the job. queue_s: how long a queue may keep the job suspended, all in all; the
    deadline does not count it. pending_s: how long the job may then lack a place for one of its pods. lease_s: after
    how long without a sign of the pipeline's node the training ends itself. stall_s: after how long without progress of
    a step a training in several processes counts as hung, on one node too.
    """

    runtime: str = Field("torch-distributed", pattern=NAME)
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
    namespace: str | None = Field(None, pattern=NAME)
    service_account: str | None = Field(None, pattern=NAME)
    poll_s: float = Field(10, gt=0)
    queue_s: float = Field(86_400, gt=0)
    pending_s: float = Field(3_600, gt=0)
    lease_s: float = Field(600, gt=0)
    stall_s: float = Field(900, gt=0)
