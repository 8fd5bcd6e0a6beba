"""The zygote and the worker of a worker-agent. `docs/worker-protocol.md` says how the agent talks with them."""
