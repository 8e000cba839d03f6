"""`python -m tests.support.short_leases MODULE run …`: a sidecar whose lease and silences are short.

Most tests of processes wait for a lease to end or for a dead replica to be missed. The order of all times to each
other is the product's; only their length is not. What has to be imported first is imported here, before anything
has taken a copy of a value.
"""

import runpy
import sys

from sidecar.cluster import lease, membership


def shorten() -> None:
    lease.TTL_S = 2  # nats-server counts lives of messages in whole seconds
    lease.RENEW_S = 0.4
    lease.GUARD_S = 0.3
    lease.BELIEF_S = lease.TTL_S + lease.RENEW_S
    lease.CALM_TRY_S = 0.5
    lease.EAGER_TRY_S = 0.1
    membership.BEAT_S = 0.6
    membership.SILENT_S = 3.0
    membership.RETURN_S = 6.0


if __name__ == "__main__":
    shorten()
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
