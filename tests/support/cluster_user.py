"""A process with a local Ray cluster: it writes how many CPUs there are, and ends at the next line, or killed."""

import sys

from sweeps.driver.local_cluster import LocalCluster

with LocalCluster() as cluster:
    assert "ray" not in sys.modules
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    sys.stdout.write(f"{int(ray.cluster_resources()['CPU'])}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    ray.shutdown()
