"""**The training loop, top to bottom.** One process, or many under `torchrun` through accelerate.

    loader --Batch--> policy.loss --> gradients --> AdamW, one-cycle rate --> averaged weights (EMA)
                                                       every so often: held-out loss, resume point

What is written where: `train/run_folder.py`. Names of runs: `train/recipes.py`.
"""

import signal
import threading
import time
from collections.abc import Iterator
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

from ..datasets.gather import WindowSpec
from ..datasets.loader import WindowLoader
from ..datasets.norm_stats import kept_norm_stats
from ..datasets.store import Store
from ..policies.checkpoint import load_weights_into, save_policy
from ..policies.policy import Policy
from ..policies.policy_config import PolicyConfig
from .config import TrainConfig
from .hardware import allocator, choose_device, choose_precision, choose_threads
from .optimizer import Ema, make_optimizer
from .run_folder import RunFolder, RunRecord


def train(config: TrainConfig, data: Path, out: Path, console: Console | None = None) -> Path:
    """Train a policy on the store `data`; returns the checkpoint folder `out/policy`.

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

    store = Store.open(data)
    taught, held_out = split_episodes(len(store.episodes), config.held_out_fraction, config.seed)
    loader = WindowLoader(
        store, window_spec(config.policy), config.batch_size, config.seed, taught,
        rank=rank, world_size=world_size, mode=config.order, cache=config.cache,
        allocate=allocator(device),
    )  # fmt: skip
    held_out_loader = WindowLoader(
        store, window_spec(config.policy), 1, config.seed, held_out, prefetch=0,
        cache=config.cache,
    )  # fmt: skip
    stats = kept_norm_stats(store, taught)

    torch.manual_seed(config.seed)
    policy = Policy(config.policy, store.embodiment, stats)
    policy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    some = np.random.default_rng(config.seed).permutation(len(loader.windows))
    policy.calibrate(loader.batch_at(np.sort(some[: max(256, config.batch_size)])))
    if config.init_from:
        load_weights_into(policy, Path(config.init_from), config.init_fresh)
    optimizer, schedule = make_optimizer(policy, config.optimizer, config.steps)
    model, optimizer = accelerator.prepare(policy, optimizer)
    ema = Ema(policy, config.optimizer.ema_decay)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + rank)

    run = RunFolder(out)
    if accelerator.is_main_process:
        run.begin(RunRecord(config, str(data), device, precision))
    accelerator.wait_for_everyone()
    inner = optimizer.optimizer  # accelerate's wrapper adds nothing to its state
    resumed = run.load(policy, inner, schedule, ema, generator)
    step, elapsed_before = 0, 0.0
    if resumed is not None:
        step, elapsed_before = resumed["step"], resumed["elapsed_s"]
        loader.load_state_dict(resumed["position"])
    console.print(
        f"training on {device} in {precision}, {threads} threads, {world_size} process(es): "
        f"{sum(p.numel() for p in policy.parameters()) / 1e6:.2f} M parameters, {len(taught)} "
        f"episodes, {len(loader.windows)} windows, "
        + ("frames kept in memory" if loader.cache == "ram" else "frames decoded as needed")
        + (f"; resumed at step {step}" if resumed is not None else "")
    )

    began = time.perf_counter()

    def elapsed() -> float:
        return elapsed_before + time.perf_counter() - began

    def save() -> None:
        if accelerator.is_main_process:
            run.save(step, policy, inner, schedule, ema, generator, loader.state_dict(), elapsed())

    recent: list[float] = []
    policy.train()
    with _progress(console, accelerator.is_main_process) as progress, _stop_signal() as stop:
        task = progress.add_task("train", total=config.steps, completed=step, loss="")
        while step < config.steps:
            loss_sum = 0.0
            for _ in range(config.gradient_accumulation):
                with accelerator.accumulate(model):
                    loss = model(next(loader), generator, config.objective)
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
                    line["held_out_loss"] = held_out_loss(
                        policy, ema, held_out_loader, config, accelerator
                    )
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
        save_policy(run.policy, policy, stats, ema.state_dict(policy))
        save()
    loader.close()
    held_out_loader.close()
    accelerator.wait_for_everyone()
    return run.policy


def window_spec(policy: PolicyConfig) -> WindowSpec:
    """What a policy learns from, around each step."""
    future = 0
    if policy.future is not None:
        future = policy.future.steps_ahead or policy.horizon
    return WindowSpec(policy.horizon, policy.history, future=future)


def split_episodes(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(taught, held out): a seeded share of the episodes, at least one, is never trained on."""
    held = max(1, round(count * fraction))
    if held >= count:
        raise ValueError(
            f"{count} episode(s) are too few to hold {held} out and train on the rest; "
            "collect more (`ulna collect TASK --out STORE --episodes N --append`)"
        )
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())


def held_out_loss(
    policy: Policy, ema: Ema, loader: WindowLoader, config: TrainConfig, accelerator: Accelerator
) -> float:
    """Loss of the averaged weights on fixed windows of held-out episodes with fixed noise: the
    same question each time it is asked."""
    count = min(config.held_out_windows, len(loader.windows))
    chosen = np.random.default_rng(0).permutation(len(loader.windows))[:count]
    generator = torch.Generator().manual_seed(0)
    weights = ema.state_dict(policy)
    policy.eval()
    losses = []
    with torch.no_grad(), accelerator.autocast():
        for part in np.array_split(chosen, max(1, count // config.batch_size)):
            loss = functional_call(
                policy, weights, (loader.batch_at(part), generator, config.objective)
            )
            losses.append(float(loss) * len(part))
    policy.train()
    return round(sum(losses) / count, 6)


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
