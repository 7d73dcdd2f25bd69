"""A local Ray in a process of its own, for as long as its standard input is open.

``python -m tests.helpers.ray_holder`` prints ``address`` and the address of the cluster; Ray may
print lines of its own before.
"""

import sys

from ophnet_ray.config import Config
from ophnet_ray.distributed.environment import prepare_environment


def main():
    prepare_environment()
    import ray

    from ophnet_ray.distributed.cluster import connect

    with connect(Config().replace_flat(train_workers=3, num_workers=2)):
        print("address", ray.get_runtime_context().gcs_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
