"""Objects are copied whole to a folder, within the room that this process may take."""

import math

import pytest

from ophnet_ray.storage.copy_folder import CopyFolder
from ophnet_ray.storage.copy_room import NoRoomError
from ophnet_ray.storage.files import write_object
from ophnet_ray.storage.paths import name_of

pytestmark = pytest.mark.unit

SIZE = 1000


class Uses(dict[str, float]):
    """Steps until the next use of files."""

    def next_use(self, name):
        return self.get(name, math.inf)

    def lose(self, name):
        pass


@pytest.fixture
def objects(bucket, request):
    """Three objects of one size."""
    folder = request.node.name[:50].replace("_", "-").strip("-")
    uris = [bucket.uri(f"{folder}/{name}.arrow") for name in "abc"]
    for uri in uris:
        write_object(uri, bytes([1]) * SIZE)
    return uris


def folder_of(tmp_path, **uses):
    copies = CopyFolder(tmp_path)
    copies.begin(Uses({f"{name}.arrow": use for name, use in uses.items()}))
    return copies


def test_an_object_that_fits_is_fetched_ahead_in_less_room_than_two_of_it(objects, tmp_path):
    copies = folder_of(tmp_path, a=5, b=6)
    copies.max_bytes = int(1.9 * SIZE)
    assert copies.fetch(objects[0], before=5).stat().st_size == SIZE
    copies.pin(name_of(objects[0]))
    with pytest.raises(NoRoomError):
        copies.fetch(objects[1], before=6)
