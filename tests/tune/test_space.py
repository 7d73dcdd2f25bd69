"""The search space: its text, its checks, its combinations."""

import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.cache.segment_keys import sampling_of
from ophnet_ray.errors import UserError
from ophnet_ray.tune.space import (
    Choice,
    Range,
    decoding_variants,
    largest_batch,
    list_combinations,
    network_variants,
    parse_search_space,
    recipe_variants,
)
from tests.helpers.searches import ITEMS

pytestmark = pytest.mark.unit


def test_a_space_is_read_as_it_is_written():
    space = parse_search_space([*ITEMS, "batch_size=randint(4,17)"], Config())
    assert space["lr"] == Range("loguniform", 1e-5, 1e-2)
    assert space["window_size"] == Choice((8, 16, 32))
    assert space["class_weights"] == Choice(("none", "focal"))
    assert 16 in space["batch_size"]
    assert 17 not in space["batch_size"]


def test_several_items_may_stand_in_one_argument():
    text = "lr=loguniform(1e-5, 1e-2)  class_weights=choice(none, focal)"
    assert parse_search_space([text], Config()) == parse_search_space(
        ["lr=loguniform(1e-5,1e-2)", "class_weights=choice(none,focal)"], Config()
    )


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        pytest.param("lr=__import__('os').getcwd()", "expected e.g.", id="code is never run"),
        pytest.param("lr=lambda(1)", "expected e.g.", id="unknown form"),
        pytest.param("momentum=choice(0.9)", "no setting momentum", id="unknown setting"),
        pytest.param("lr=loguniform(1e-2,1e-5)", "not below", id="the wrong way round"),
        pytest.param("lr=loguniform(1e-5,inf)", "more than 0, and finite", id="no end"),
        pytest.param("random_shift=uniform(0,0.5)", "less than 0.5", id="an end that is too high"),
        pytest.param("lr=loguniform(0.1)", "two numbers", id="one end"),
        pytest.param("lr=choice(0.1,-1)", "--lr -1.0: must be more than 0", id="impossible value"),
        pytest.param("window_size=choice(8,12)", "not a multiple", id="impossible window"),
        pytest.param(
            "window_size=choice(8,128)", "less than --window_size", id="too long a window"
        ),
        pytest.param("image_size=randint(64,225)", "give image_size=choice", id="endless decoding"),
        pytest.param(
            "class_weights=choice(none,best)", "'best' is not one of", id="unknown scheme"
        ),
        pytest.param("seed=choice(1,2)", "--repeats", id="the split must stay"),
        pytest.param("strategy=choice(ddp,fsdp)", "give --strategy", id="it shapes all trials"),
        pytest.param("deterministic=choice(true)", "give --deterministic", id="likewise"),
        pytest.param("csv_path=choice(a,b)", "same data", id="the data must stay"),
    ],
)
def test_a_setting_or_value_that_cannot_be_searched_is_refused(item, complaint):
    with pytest.raises(UserError, match="--search") as refused:
        parse_search_space([item], Config())
    assert complaint in str(refused.value)


def test_values_that_exclude_each_other_are_refused_before_the_start():
    items = ["window_size=choice(8,32)", "max_frames=choice(16,64)"]
    with pytest.raises(UserError, match="window_size=32, max_frames=16: --max_frames 16 is less"):
        parse_search_space(items, Config())


def test_a_space_is_written_as_it_is_read():
    space = parse_search_space(ITEMS, Config())
    again = parse_search_space([f"{name}={domain}" for name, domain in space.items()], Config())
    assert again == space


def test_only_settings_that_affect_decoding_make_decoding_variants():
    items = ["lr=choice(0.1,0.2)", "window_size=choice(8,16)", "max_frames=choice(64,128)"]
    variants = list(decoding_variants(parse_search_space(items, Config())))
    assert len(variants) == 4
    assert {"max_frames": 128, "window_size": 8} in variants
    assert list(decoding_variants(parse_search_space(["lr=choice(0.1,0.2)"], Config()))) == [{}]


def test_a_search_over_the_pictures_of_windows_decodes_means_and_frames_once_each():
    space = parse_search_space(["window_image=choice(mean,center,mean+motion)"], Config())
    configs = [Config().replace_flat(**settings) for settings in decoding_variants(space)]
    assert len(configs) == 3
    assert len({sampling_of(config.windows) for config in configs}) == 2


def test_each_network_of_a_space_is_known_before_the_first_trial():
    items = ["backbone=choice(resnet18,test_vit)", "image_size=choice(64,128)", "mask=choice(rg)"]
    space = parse_search_space([*items, "lr=uniform(0.1,0.2)"], Config())
    assert [tuple(settings.values()) for settings in network_variants(space)] == [
        ("resnet18", 64),
        ("resnet18", 128),
        ("test_vit", 64),
        ("test_vit", 128),
    ]


def test_each_choice_of_layers_is_known_with_its_network_before_the_first_trial():
    items = ["backbone=choice(test_resnet,test_vit)", "freeze=choice(none,stages:2)"]
    space = parse_search_space([*items, "weight_decay=choice(0.01,0.1)"], Config())
    assert [tuple(settings.values()) for settings in recipe_variants(space)] == [
        ("test_resnet", "none"),
        ("test_resnet", "stages:2"),
        ("test_vit", "none"),
        ("test_vit", "stages:2"),
    ]


def test_all_combinations_of_a_grid_are_listed_once():
    items = ["lr=choice(1e-3,1e-4)", "window_size=choice(8,16)"]
    combinations = list_combinations(parse_search_space(items, Config()))
    assert {tuple(settings.values()) for settings in combinations} == {
        (1e-3, 8),
        (1e-3, 16),
        (1e-4, 8),
        (1e-4, 16),
    }
    assert len(combinations) == 4
    with pytest.raises(UserError, match=r"give lr=choice\(\.\.\.\)"):
        list_combinations(parse_search_space(ITEMS, Config()))


@pytest.mark.parametrize("value", ["0x_", "9" * 5000, "2020-13-45", "!!timestamp x", "1\n\n2"])
def test_a_value_that_yaml_cannot_read_is_refused_in_one_line(value):
    with pytest.raises(UserError, match=r"^--search lr=choice") as refused:
        parse_search_space([f"lr=choice({value})"], Config())
    assert str(refused.value).isprintable()


def test_trials_of_temporal_models_share_an_encoder_and_vary_the_model_alone():
    base = Config().replace_flat(temporal="mstcn", encoder="model.ckpt")
    items = ["temporal_layers=choice(6,8,10)", "temporal_lr=loguniform(1e-4,1e-2)"]
    space = parse_search_space([*items, "class_weights=choice(none,focal)"], base)
    assert list(space) == ["temporal_layers", "temporal_lr", "class_weights"]
    for item in ("lr=loguniform(1e-4,1e-2)", "window_size=choice(8,16)", "causal=choice(true)"):
        with pytest.raises(UserError, match="share one encoder and its features"):
            parse_search_space([item], base)
    with pytest.raises(UserError, match="temporal_lr is of a temporal model; give --temporal"):
        parse_search_space(items[1:], Config())


def test_settings_that_exclude_each_other_are_refused_before_the_first_trial():
    items = ["freeze=choice(none,bn)", "lora_rank=choice(4,8)"]
    with pytest.raises(UserError, match=r"freeze=bn.*leave --freeze bn out"):
        parse_search_space(items, Config())


@pytest.mark.parametrize(
    ("item", "largest"),
    [("batch_size=choice(8,32,16)", 32), ("batch_size=randint(4,33)", 32), ("lr=choice(1)", None)],
)
def test_the_largest_batch_of_a_search_is_known_before_its_trials(item, largest):
    found = largest_batch(parse_search_space([item], Config()))
    assert found.get("batch_size") == largest
