"""A process with a local Ray cluster: it writes how many CPUs there are, and ends at the next line, or killed.

With an argument it first writes where a worker imports `settings` from, and the worker's `sys.path`, as JSON.
"""

import json
import sys

from sweeps.driver.local_cluster import LocalCluster, connect

with LocalCluster() as cluster:
    assert "ray" not in sys.modules
    with connect(None, cluster, together=False):
        import ray

        def imports() -> tuple[str, list[str]]:
            import sys

            import settings.common.errors

            return settings.common.errors.__file__, sys.path

        if sys.argv[1:]:
            sys.stdout.write(json.dumps(ray.get(ray.remote(imports).remote())) + "\n")
        sys.stdout.write(f"{int(ray.cluster_resources()['CPU'])}\n")
        sys.stdout.flush()
        sys.stdin.readline()
