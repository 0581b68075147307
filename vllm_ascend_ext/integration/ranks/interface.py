# SPDX-License-Identifier: Apache-2.0
"""Has Gloo use the network interface by which this host reaches the other hosts of an engine.

Torch has Gloo use the address to which the host's own name resolves. Where that is nothing, or a loopback address
as on many installed machines, Gloo uses the loopback interface, and ranks on other hosts wait for it in vain.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from vllm_ascend_ext import envs

logger = logging.getLogger(__name__)

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_ANY_PORT = 9  # nothing is sent


def choose_gloo_interface(parallel_config: Any) -> None:
    """Sets GLOO_SOCKET_IFNAME for this process and those that it starts, where the engine has several hosts and
    nobody has set it.

    The interface is that of VLLM_HOST_IP, or without it the one from which the engine's first host is reached.
    """
    if envs.is_set(GLOO_INTERFACE) or not _has_hosts(parallel_config):
        return
    from vllm import envs as vllm_envs

    _choose(vllm_envs.VLLM_HOST_IP or _address_of_this_host(parallel_config))


def choose_gloo_interface_of_actor(parallel_config: Any) -> None:
    """Sets GLOO_SOCKET_IFNAME likewise for this worker, where Ray has placed it on one of several hosts.

    The interface is that of VLLM_HOST_IP, or without it of the address by which Ray knows this host.
    """
    if not parallel_config.use_ray or envs.is_set(GLOO_INTERFACE):
        return
    import ray
    from vllm import envs as vllm_envs

    _choose(vllm_envs.VLLM_HOST_IP or ray.util.get_node_ip_address())


def _choose(address: str) -> None:
    name = address and _interface_of(address)
    if not name:
        logger.warning(
            "ascend_ext: no network interface of this host has its address %r; set %s to the interface that "
            "reaches the other hosts, or VLLM_HOST_IP to its address",
            address,
            GLOO_INTERFACE,
        )
        return
    logger.info("ascend_ext: Gloo uses interface %s (%s)", name, address)
    envs.export({GLOO_INTERFACE: name})


def _has_hosts(parallel_config: Any) -> bool:
    """Returns whether ranks may be on other hosts."""
    if parallel_config.use_ray:  # whose workers choose for themselves: their hosts' interfaces may differ
        return False
    return (
        parallel_config.nnodes > 1 or parallel_config.data_parallel_size_local < parallel_config.data_parallel_size
    )


def _address_of_this_host(parallel_config: Any) -> str:
    several = parallel_config.nnodes > 1
    head = parallel_config.master_addr if several else parallel_config.data_parallel_master_ip
    return _own_address_towards(head)


def _own_address_towards(address: str) -> str:
    """Returns the address of this host from which packets to `address` leave; "" where there is no way."""
    try:
        family, kind, protocol, _, there = socket.getaddrinfo(address, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _interface_of(address: str) -> str | None:
    """Returns the name of this host's interface that has `address`."""
    import psutil  # type: ignore[import-untyped]  # vLLM's requirement

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return str(name)
    return None
