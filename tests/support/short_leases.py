"""`python -m tests.support.short_leases run …`: a sidecar whose lease and silences are shorter than the product's.

Most tests of processes wait for a lease to end or for a dead replica to be missed. The order of all times to each
other is the product's; only their length is not. What has to be imported first is imported here, before anything
has taken a copy of a value.
"""

import sys

from sidecar.cluster import lease, membership

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
    from sidecar.__main__ import main

    sys.exit(main())
