# SPDX-License-Identifier: Apache-2.0
"""Lists the seams in the API server's process."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, ON_0_23, ON_0_30, Seam, members

_UNTIL_SERVES = (
    "the exit status tells of a dead engine, open requests are answered at the end, and workers are given time "
    "to end"
)
_SERVES = "https://github.com/vllm-project/vllm/issues/48966"
SERVE_HTTP = tuple(
    Seam(
        f"{module}:serve_http",
        "replace",
        "server",
        DEVICES,
        "`vllm serve` has exit status 0 after its engine died: no supervisor restarts it; told to stop, it hangs "
        "while requests are open and kills workers that free what they hold; and neither /metrics nor a page of "
        "ours has a way to a worker's values",
        _UNTIL_SERVES,
        ("app", "sock"),
        _SERVES,
        pairs,
    )
    for pairs, module in (
        (ON_0_23, "vllm.entrypoints.openai.api_server"),
        (ON_0_30, "vllm.entrypoints.launchers.api_server.entry"),
    )
)
SERVE_HTTP_ITSELF = tuple(
    Seam(
        f"{module}:serve_http",
        "read",
        "server",
        DEVICES,
        "ours calls it",
        _UNTIL_SERVES,
        ("app", "sock"),
        _SERVES,
        pairs,
    )
    for pairs, module in ((ON_0_23, "vllm.entrypoints.launcher"), (ON_0_30, "vllm.entrypoints.launchers.launcher"))
)
KEY_CHECK = tuple(
    Seam(
        f"{module}:AuthenticationMiddleware",
        "read",
        "server",
        DEVICES,
        "vLLM asks for the API key under some paths only; ours is asked for the key by the same check",
        "vLLM's check covers routes of plug-ins",
        pairs=pairs,
    )
    for pairs, module in (
        (ON_0_23, "vllm.entrypoints.serve.utils.server_utils"),
        (ON_0_30, "vllm.entrypoints.serve.middleware.authenticate"),
    )
)
SHUTDOWN = Seam(
    "vllm.v1.engine.async_llm:AsyncLLM.shutdown",
    "wrap",
    "server",
    DEVICES,
    "only it tells an operator's signal from a dead engine, and only there open requests can still be answered",
    _UNTIL_SERVES,
    ("timeout",),
    _SERVES,
)

_LAUNCHES = "vLLM gives the processes of every launch time to end, and a headless node a status of its own"
STOPS = tuple(
    Seam(
        f"{module}:shutdown",
        "wrap",
        "server",
        DEVICES,
        "the launcher of several API servers or of a headless node kills engine cores while they free what they "
        "hold, and rings stay in /dev/shm",
        _LAUNCHES,
        ("procs", "timeout"),
    )
    for module in ("vllm.v1.utils", "vllm.v1.engine.utils", "vllm.v1.engine.coordinator")
)
API_SERVERS_WAIT = Seam(
    "vllm.entrypoints.cli.serve:wait_for_completion_or_failure",
    "wrap",
    "server",
    DEVICES,
    "the launcher of several API servers says of one that was killed that its status is None",
    "vLLM waits for the status of the process that has ended",
    ("api_server_manager", "engine_manager", "coordinator"),
)
REPLICA_STATES = Seam(
    "vllm.config.parallel:ParallelConfig.sync_dp_state",
    "replace",
    "server",
    DEVICES,
    "engine cores of replicas wait for a silent one for torch's half an hour, whatever vLLM's timeouts are",
    "`--cpu-distributed-timeout-seconds` reaches the group of the engine cores",
    ("dp_group", "has_unfinished", "pending_pause"),
)
_WHY_MONITORS = "a headless node whose engine has died ends with status 0"
ENGINE_MONITOR = Seam(
    "vllm.v1.engine.utils:CoreEngineProcManager.monitor_engine_liveness",
    "wrap",
    "server",
    DEVICES,
    _WHY_MONITORS,
    _LAUNCHES,
    (),
)
WORKER_MONITOR = Seam(
    "vllm.v1.executor.multiproc_executor:MultiprocExecutor.start_worker_monitor",
    "wrap",
    "server",
    DEVICES,
    _WHY_MONITORS,
    _LAUNCHES,
    ("inline",),
)
INPUT_SOCKETS = Seam(
    "vllm.v1.engine.core:EngineCoreProc.process_input_sockets",
    "wrap",
    "server",
    DEVICES,
    "an idle engine core of a headless node does not notice that its head has gone; here it learns the addresses",
    "an engine core ends when its head has gone",
    ("input_addresses", "coord_input_address", "identity", "ready_event"),
)

_RAY_EXECUTOR = "vllm.v1.executor.ray_executor_v2:RayExecutorV2"
_UNTIL_ACTORS = "vLLM asks Ray actors to end before it has Ray kill them"
RAY_SHUTDOWN = Seam(
    f"{_RAY_EXECUTOR}.shutdown",
    "wrap",
    "server",
    DEVICES,
    "Ray kills workers while they hold rings and vLLM's own queues, which stay in /dev/shm of every host",
    _UNTIL_ACTORS,
    (),
)
RAY_ENDS = Seam(
    f"{_RAY_EXECUTOR}.shutting_down",
    "replace",
    "server",
    DEVICES,
    "where it is not set, the executor takes a worker that ends for one that died",
    _UNTIL_ACTORS,
)
_ACTORS = "vllm.v1.engine.utils:CoreEngineActorManager"
ACTOR_MONITOR, ACTORS_SHUTDOWN = (
    Seam(
        f"{_ACTORS}.{name}",
        "wrap",
        "server",
        DEVICES,
        "the launcher takes no note of an engine core that is a Ray actor and ends with an error, and has Ray "
        "kill the others while their workers hold rings",
        _UNTIL_ACTORS,
        parameters,
    )
    for name, parameters in (("monitor_engine_liveness", ()), ("shutdown", ("timeout",)))
)
ACTOR_FAILED = Seam(
    f"{_ACTORS}.failed_proc_name",
    "replace",
    "server",
    DEVICES,
    "where it is not set, the launcher does not end after an engine core has",
    _UNTIL_ACTORS,
)

_ANSWERS = "https://github.com/vllm-project/vllm/pull/36964"

ROWS = (
    *SERVE_HTTP,
    *SERVE_HTTP_ITSELF,
    *KEY_CHECK,
    SHUTDOWN,
    *STOPS,
    API_SERVERS_WAIT,
    ENGINE_MONITOR,
    WORKER_MONITOR,
    REPLICA_STATES,
    INPUT_SOCKETS,
    RAY_SHUTDOWN,
    ACTOR_MONITOR,
    ACTORS_SHUTDOWN,
    ACTOR_FAILED,
    RAY_ENDS,
    *members(
        _ACTORS,
        {"actor_run_ref_dict": None, "manager_stopped": None},
        "read",
        "server",
        DEVICES,
        why="tells engine cores that are actors to end, and which have ended",
        remove_when=_UNTIL_ACTORS,
    ),
    *members(
        _RAY_EXECUTOR,
        {
            "_join_monitor_thread": (),
            "shutdown_lock": None,
            "ray_worker_handles": None,
            "rpc_broadcast_mq": None,
        },
        "read",
        "server",
        DEVICES,
        why="tells its workers to end, by the queue of their calls, without taking their ends for deaths",
        remove_when=_UNTIL_ACTORS,
    ),
    Seam(
        "vllm.v1.executor.ray_executor_v2:RayWorkerHandle.run_ref",
        "read",
        "server",
        DEVICES,
        "ends when a worker has ended",
        _UNTIL_ACTORS,
    ),
    Seam(
        "vllm.v1.executor.multiproc_executor:MultiprocExecutor.is_failed",
        "read",
        "server",
        DEVICES,
        "tells a worker that died from one that was asked to end",
        _LAUNCHES,
    ),
    *members(
        "vllm.v1.engine.async_llm:AsyncLLM",
        {
            "errored": None,
            "dead_error": None,
            "output_processor": None,
            "vllm_config": None,
            "engine_core": None,
            "collective_rpc": ("method",),
        },
        "read",
        "server",
        DEVICES,
        why="tells whether the engine died, answers open requests, and asks workers for their metrics",
        remove_when=_UNTIL_SERVES,
    ),
    *(
        Seam(
            f"vllm.v1.engine.core_client:{target}",
            "read",
            "server",
            DEVICES,
            "asks the workers of every replica; vLLM's own call passes on the first replica's answers",
            "AsyncLLM.collective_rpc returns the answers of all replicas",
            parameters,
        )
        for target, parameters in (
            ("DPLBAsyncMPClient", None),
            ("AsyncMPClient._call_utility_async", ("method", "engine")),
            ("MPClient.core_engines", None),
        )
    ),
    Seam(
        "vllm.v1.engine.output_processor:OutputProcessor.propagate_error",
        "read",
        "server",
        DEVICES,
        "open requests get the error of a dead engine; vLLM cancels the task that would answer them",
        _UNTIL_SERVES,
        ("e",),
        _ANSWERS,
    ),
    Seam(
        "vllm.v1.metrics.prometheus:get_prometheus_registry",
        "read",
        "server",
        DEVICES,
        "our route answers /metrics with vLLM's values, too: those of all API servers",
        "vLLM carries workers' values to /metrics",
        (),
    ),
)
