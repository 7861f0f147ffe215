"""Nodes of a local run that do not wait for each other, side by side.

`kfp.local` runs an unrolled graph one node after the other; only its loops run side by side, and a loop has no names.
Here the order is ours and everything else is still its own: each node is executed, cached and retried by `kfp.local`.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

THREADS = "OMP_NUM_THREADS"


@contextmanager
def side_by_side(most: int) -> Iterator[None]:
    """Within it a pipeline that runs through `kfp.local` has up to `most` nodes at work at a time.

    The nodes at work share the cores. After a failure nothing new starts; what is at work may end, so that its result
    is kept in the cache. Each node is a process group of its own, and a run that is stopped tries none of them again.
    """
    from kfp.local import logging_utils, subprocess_task_handler
    from kfp.local.orchestrator import dag_orchestrator, task_executor

    stopped = threading.Event()
    own_group = SimpleNamespace(**{**vars(subprocess), "Popen": partial(subprocess.Popen, process_group=0)})
    with ExitStack() as stack:
        stack.enter_context(_swapped(dag_orchestrator, "run_dag", partial(run_dag, most, stopped)))
        stack.enter_context(_swapped(subprocess_task_handler, "subprocess", own_group))
        # Its only use of the clock is the pause before a node is tried again.
        stack.enter_context(_swapped(task_executor, "time", SimpleNamespace(sleep=partial(_pause, stopped))))
        # These two replace `print` and the root logger's handlers, which threads can't each do for themselves.
        stack.enter_context(_swapped(logging_utils, "indented_print", nullcontext))
        stack.enter_context(_swapped(logging_utils, "local_logger_context", nullcontext))
        if THREADS not in os.environ:
            stack.callback(os.environ.pop, THREADS, None)
        yield


class Stopped(RuntimeError):
    """The run was stopped while a node waited to be tried again."""


def _pause(stopped: threading.Event, seconds: float) -> None:
    """At least a second: what ends a run ends its nodes first, and that must not count as a failure of theirs."""
    if stopped.wait(max(seconds, 1.0)):
        raise Stopped


def run_dag(
    most: int,
    stopped: threading.Event,
    *,
    dag_component_spec: Any,
    dag_arguments: Mapping[str, Any],
    fail_stack: list[str],
    **given: Any,
) -> tuple[dict[str, Any], Any]:
    """What `kfp.local`'s own `run_dag` does for a graph without control flow, with `most` nodes at a time."""
    from kfp.local import graph_utils, io, status
    from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils
    from kfp.local.orchestrator.task_executor import execute_single_task

    store = io.IOStore()
    inputs = OrchestratorUtils.join_user_inputs_and_defaults(
        dag_arguments=dag_arguments, dag_inputs_spec=dag_component_spec.input_definitions
    )
    for name, value in inputs.items():
        store.put_parent_input(name, value)
    tasks = dag_component_spec.dag.tasks
    needs = {name: set(before) for name, before in graph_utils.build_dependency_map(tasks).items()}
    waiting = most_awaited(needs)
    finished: set[str] = set()
    running: dict[Future[Any], str] = {}
    chosen = os.environ.get(THREADS)
    with ThreadPoolExecutor(most) as pool, _telling(stopped):
        while True:
            ready = [] if fail_stack else [name for name in waiting if needs[name] <= finished][: most - len(running)]
            if not chosen:
                os.environ[THREADS] = str(max(1, (os.cpu_count() or 1) // max(1, len(running) + len(ready))))
            for name in ready:
                waiting.remove(name)
                task = {"task_name": name, "task_spec": tasks[name], "io_store": store, "fail_stack": fail_stack}
                running[pool.submit(execute_single_task, **task, **given)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                outputs, ended = future.result()
                if ended is not status.Status.SUCCESS:
                    fail_stack.append(name)
                    continue
                finished.add(name)
                for key, value in outputs.items():
                    store.put_task_output(name, key, value)
    if fail_stack:
        return {}, status.Status.FAILURE
    outputs = OrchestratorUtils.get_dag_outputs(dag_outputs_spec=dag_component_spec.dag.outputs, io_store=store)
    return outputs, status.Status.SUCCESS


def most_awaited(needs: Mapping[str, set[str]]) -> list[str]:
    """Nodes in the order in which they should start when they can: those first that most others wait for, then by name.

    needs: node -> the nodes that it waits for itself.
    """
    behind: dict[str, set[str]] = {name: set() for name in needs}
    changed = True
    while changed:
        before = {name: len(found) for name, found in behind.items()}
        for name, wanted in needs.items():
            for one in wanted:
                behind[one] |= {name, *behind[name]}
        changed = before != {name: len(found) for name, found in behind.items()}
    return sorted(needs, key=lambda name: (-len(behind[name]), name))


@contextmanager
def _telling(stopped: threading.Event) -> Iterator[None]:
    """Set the event when the block is left by an exception."""
    try:
        yield
    except BaseException:
        stopped.set()
        raise


@contextmanager
def _swapped(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
