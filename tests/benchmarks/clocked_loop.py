"""The product's train loop with a clock. Light: processes that only start workers load it, too."""

from typing import Any


def clocked_train_loop(loop_config: dict[str, Any]) -> dict[str, str]:
    """Run ``ophnet_ray.train.trainer.train_loop`` with a ``StepClock`` among the callbacks."""
    from ophnet_ray.train import worker as train_worker
    from ophnet_ray.train.worker_place import place_in_group
    from tests.benchmarks.step_clock import StepClock

    build = train_worker._build_trainer

    def build_with_clock(loop: Any, callback: Any, place: Any) -> Any:
        trainer = build(loop, callback, place)
        trainer.callbacks.insert(0, StepClock(loop.run.path / "steps.json"))
        return trainer

    train_worker._build_trainer = build_with_clock
    return train_worker.run_worker(loop_config["loop"], place_in_group())
