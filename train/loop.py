"""**The training loop, top to bottom.** One process, or many under `torchrun` through accelerate.

    data --batch--> policy.loss --> gradients --> AdamW, one-cycle rate --> averaged weights (EMA)
                                                       every so often: held-out loss, resume point

What is written where: `train/run_folder.py`. Names of runs: `train/recipes.py`.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.func import functional_call

from ..policies.checkpoint import load_weights_into, save_policy
from ..policies.policy import Policy
from .config import TrainConfig
from .hardware import allocator, choose_device, choose_precision, choose_threads
from .optimizer import Ema, make_optimizer
from .run_folder import RunFolder, RunRecord
from .training_data import TrainingData


def train(
    config: TrainConfig, data: Path | Sequence[Path], out: Path, console: Console | None = None
) -> Path:
    """Train a policy on the store `data`; returns the checkpoint folder `out/policy`.

    Several stores, also of different robots, are mixed (`train/training_data.py`).
    A run found in `out` with the same settings goes on where it was. Ctrl-C finishes the step,
    writes a resume point and raises KeyboardInterrupt.
    """
    console = console or Console()
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    threads = choose_threads(config.threads)
    torch.set_num_threads(threads)
    # accelerate keeps the last run's precision in a process-wide singleton and refuses another one.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        gradient_accumulation_steps=config.gradient_accumulation,
    )
    rank, world_size = accelerator.process_index, accelerator.num_processes

    paths = [data] if isinstance(data, Path) else list(data)
    source = TrainingData(config, paths, rank, world_size, allocator(device))
    torch.manual_seed(config.seed)
    policy = Policy(config.policy, source.robots, source.stats, source.spaces)
    policy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.policy.future is not None:
        policy.calibrate(source.first(256))
    if config.init_from:
        load_weights_into(policy, Path(config.init_from), config.init_fresh)
    optimizer, schedule = make_optimizer(policy, config.optimizer, config.steps)
    model, optimizer = accelerator.prepare(policy, optimizer)
    ema = Ema(policy, config.optimizer.ema_decay)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + rank)

    run = RunFolder(out)
    if accelerator.is_main_process:
        stores = ", ".join(map(str, paths))
        run.begin(RunRecord(config, stores, device, precision, tuple(source.spaces)))
    accelerator.wait_for_everyone()
    inner = optimizer.optimizer  # accelerate's wrapper adds nothing to its state
    resumed = run.load(policy, inner, schedule, ema, generator)
    step, elapsed_before = 0, 0.0
    if resumed is not None:
        step, elapsed_before = resumed["step"], resumed["elapsed_s"]
        source.load_state_dict(resumed["position"])
    console.print(
        f"training on {device} in {precision}, {threads} threads, {world_size} process(es): "
        f"{sum(p.numel() for p in policy.parameters()) / 1e6:.2f} M parameters, "
        f"{source.taught} episodes, {source.windows} windows, "
        + ("frames kept in memory" if source.cache == "ram" else "frames decoded as needed")
        + (f"; resumed at step {step}" if resumed is not None else "")
    )

    began = time.perf_counter()

    def elapsed() -> float:
        return elapsed_before + time.perf_counter() - began

    def save() -> None:
        if accelerator.is_main_process:
            run.save(step, policy, inner, schedule, ema, generator, source.state_dict(), elapsed())

    recent: list[float] = []
    policy.train()
    with _progress(console, accelerator.is_main_process) as progress, _stop_signal() as stop:
        task = progress.add_task("train", total=config.steps, completed=step, loss="")
        while step < config.steps:
            loss_sum = 0.0
            for _ in range(config.gradient_accumulation):
                with accelerator.accumulate(model):
                    loss = model(next(source), generator, config.objective)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(
                            policy.parameters(), config.optimizer.gradient_clip
                        )
                    optimizer.step()
                    optimizer.zero_grad()
                loss_sum += float(loss.detach())
            schedule.step()
            ema.update(policy)
            step += 1
            recent.append(loss_sum / config.gradient_accumulation)
            if not np.isfinite(recent[-1]):
                raise ValueError(
                    f"the loss is {recent[-1]} at step {step}; the resume point in {run.resume} is "
                    "from before; try a smaller --optimizer.peak-learning-rate or --precision fp32"
                )
            last = step == config.steps
            if accelerator.is_main_process and (step % 10 == 0 or last):
                line: dict[str, float | int] = {
                    "step": step,
                    "loss": round(float(np.mean(recent)), 6),
                    "learning_rate": float(schedule.get_last_lr()[0]),
                    "samples_per_s": round(
                        step * config.batch_size * world_size * config.gradient_accumulation
                        / elapsed(), 1,
                    ),
                    "elapsed_s": round(elapsed(), 2),
                }  # fmt: skip
                recent.clear()
                if step % config.held_out_every == 0 or last:
                    line["held_out_loss"] = held_out_loss(policy, ema, source, config, accelerator)
                    console.print(
                        f"step {step:5d}  loss {line['loss']:.4f}  held-out "
                        f"{line['held_out_loss']:.4f}  {elapsed():.0f} s"
                    )
                run.log(line)
                progress.update(task, loss=f"loss {line['loss']:.4f}")
            progress.update(task, completed=step)
            if stop.is_set():
                save()
                raise KeyboardInterrupt
            if step % config.save_every == 0 and not last:
                save()
    if accelerator.is_main_process:
        save_policy(run.policy, policy, source.stats, ema.state_dict(policy))
        save()
    source.close()
    accelerator.wait_for_everyone()
    return run.policy


def held_out_loss(
    policy: Policy, ema: Ema, source: TrainingData, config: TrainConfig, accelerator: Accelerator
) -> float:
    """Loss of the averaged weights on fixed windows of held-out episodes with fixed noise: the
    same question each time it is asked."""
    generator = torch.Generator().manual_seed(0)
    weights = ema.state_dict(policy)
    policy.eval()
    losses, counts = [], []
    with torch.no_grad(), accelerator.autocast():
        for part in source.held_out():
            loss = functional_call(policy, weights, ((part,), generator, config.objective))
            losses.append(float(loss))
            counts.append(len(part[1].instructions))
    policy.train()
    return round(float(np.average(losses, weights=counts)), 6)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event set by Ctrl-C, so that a step is never left half done. A second one is immediate."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _progress(console: Console, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[loss]}"),
        console=console, disable=not shown,
    )  # fmt: skip
