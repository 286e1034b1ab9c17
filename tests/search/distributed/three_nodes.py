"""A Ray cluster of three nodes here, in a process of its own: Ray forks, and JAX may run in the tests'.

Prints the address; a line on the standard input kills a node, its end stops the cluster.
"""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """Start it, and do as asked."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        print(f"address {cluster.address}", flush=True)
        for _ in sys.stdin:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
