"""Training options beside each other: python -m benchmarks.recipes --out=runs/recipes [-- flags of train.py]

Trains the preset `plain` as it is, then with larger steps ("fast"), then "fast" with one more change at a time, each
with every seed, and scores 256 clips of each run's last step with `evaluate.py`. Finished runs are skipped and
interrupted runs go on, so the command can be repeated whenever there is time. Prints a Markdown table of means over the
seeds, with the least and the largest value beside them.

The columns: `frechet_video`, `precision`, `recall`; texture (`swd_64`, `spectrum_high`,
`spectrum_checker`); how much colours change within a clip (`identity`, on `shapes` the
content distance `acd_color`), how far the colours of different clips lie apart (`color_diversity`) and the share of
clips that show a shape (`coverage`); `mcs`; `diversity`; and, over the last quarter of the steps, the loss of each
discriminator and the share of clips or frames that it tells apart. Look at the runs' `samples/` too: a score does not
see everything.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# What each run changes in the preset. A few hundred steps tell little about the preset, whose learning rates are made
# for thousands; therefore single changes are made to a recipe that starts faster.
FAST = ["--learning_rate=5e-4", "--learning_rate_d=5e-4", "--update_gate_bias=1", "--motion_init_scale=0.5"]
NO_R1 = ["--r1_image=0", "--r1_video=0"]
SETTINGS: dict[str, list[str]] = {
    "as it is": [],
    "fast": FAST,
    "fast, shared fakes": [*FAST, "--share_fakes"],
    "fast, two frames to D_I": [*FAST, "--image_frames=2"],
    "fast, modulated content": [*FAST, "--content_modulation"],
    "fast, modulated content of 8 numbers": [*FAST, "--content_modulation", "--dim_content=8"],
    "fast, first state as wide as noise": [*FAST, "--motion_init_scale=1"],
    "fast, no R1": [*FAST, *NO_R1],
    "fast, batch norm, noise 0.1, no R1": [*FAST, "--discriminator_norm=batch", "--noise_sigma=0.1", *NO_R1],
    "fast, spectral norm, no R1": [*FAST, "--discriminator_norm=spectral", *NO_R1],
    "fast, no moving average": [*FAST, "--ema_decay=0"],
    "fast, half the step size for D": [*FAST, "--learning_rate_d=2.5e-4"],
    "fast, warm-up, 200 steps": [*FAST, "--warmup_steps=200"],
    "fast, label smoothing 0.1": [*FAST, "--label_smoothing=0.1"],
    "fast, augmentation": [*FAST, "--augment=translation,cutout"],
    "fast, no D_I": [*FAST, "--image_discriminator=none"],
    "fast, category to the decoder": [*FAST, "--category_to=image"],
    "fast, no D_I, category to the decoder": [*FAST, "--image_discriminator=none", "--category_to=image"],
}
METRICS = {
    "shapes": "frechet_video,precision,texture,acd_color,mcs,diversity",
    "taichi": "frechet_video,precision,texture,identity,mcs,diversity",
}
BALANCE = ("loss_d_image", "accuracy_d_image", "loss_d_video", "accuracy_d_video")
TEXTURE = ("swd_64", "swd_32", "spectrum_high", "spectrum_checker")
CONTENT = ("identity", "acd_color", "color_diversity", "coverage")
COLUMNS = ("frechet_video", "precision", "recall", *TEXTURE, *CONTENT, "mcs", "diversity", *BALANCE)
Scores = dict[str, float]


def run_name(setting: str) -> str:
    """Returns the name of a setting's folder."""
    return "".join(letter if letter.isalnum() else "-" for letter in setting.lower())


def train(folder: pathlib.Path, dataset: str, setting: str, seed: int, flags: list[str]) -> None:
    """Trains one run or goes on with it, and sends its output to a file beside its folder."""
    command = [
        *[sys.executable, "train.py", "--profile=cpu", "--preset=plain", f"--dataset={dataset}", f"--seed={seed}"],
        *[f"--run_dir={folder}", "--evaluate_every=0", *SETTINGS[setting], *flags],
    ]
    with open(f"{folder}.txt", "a") as out:
        if subprocess.run(command, cwd=ROOT, stdout=out, stderr=out).returncode:
            sys.exit(f"{' '.join(command[1:])} has failed; see {folder}.txt")


def score(folder: pathlib.Path, dataset: str, num_videos: int) -> Scores:
    """Returns the scores of a finished run by name, from `evaluate.py` and from its log."""
    command = [sys.executable, "evaluate.py", f"--run_dir={folder}", f"--num_videos={num_videos}"]
    command.append(f"--metrics={METRICS[dataset]}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:])} has failed: {done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["metric"]: line["value"] for line in lines} | balance(folder)


def balance(folder: pathlib.Path) -> Scores:
    """Returns the means of the discriminators' losses and accuracies over the last quarter of the logged steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = lines[-max(1, len(lines) // 4) :]
    return {name: statistics.mean(line[name] for line in last) for name in BALANCE if name in last[-1]}


def table(results: dict[str, Scores], datasets: list[str], seeds: list[int]) -> str:
    """Returns the Markdown tables, one per set: a row per setting with a run, a column per score that any run has."""
    parts = []
    for dataset in datasets:
        rows = {}
        for setting in SETTINGS:
            names = [f"{dataset}/{run_name(setting)}/{seed}" for seed in seeds]
            rows[setting] = [results[name] for name in names if results.get(name)]
        columns = [name for name in COLUMNS if any(name in run for runs in rows.values() for run in runs)]
        lines = [f"| `{dataset}` | runs | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
        for setting, runs in rows.items():
            if runs:
                cells = [_cell([run[name] for run in runs if name in run]) for name in columns]
                lines.append(f"| {setting} | {len(runs)} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    least, mean, largest = min(values), statistics.mean(values), max(values)
    digits = 0 if largest >= 100 else 1 if largest >= 10 else 2
    return f"{mean:.{digits}f}" + (f" ({least:.{digits}f} to {largest:.{digits}f})" if len(values) > 1 else "")


def main() -> None:
    """Trains and scores what is missing, then prints the tables, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs and of results.json")
    parser.add_argument("--datasets", nargs="+", choices=list(METRICS), default=list(METRICS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--num_videos", type=int, default=256, help="clips to score")
    parser.add_argument("--table", action="store_true", help="print what is there and train nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("flags", nargs="*", help="for all runs, after `--`: flags of train.py")
    options = parser.parse_args()
    kept = options.out / "results.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"flags": options.flags, "runs": {}}
    if state["flags"] != options.flags and not options.table:
        parser.error(f"{kept} holds runs with the flags {' '.join(state['flags'])}. Give the same, or another --out.")
    results = state["runs"]
    missing = [
        (dataset, setting, seed)
        for seed in options.seeds
        for setting in options.settings
        for dataset in options.datasets
        if f"{dataset}/{run_name(setting)}/{seed}" not in results
    ]
    for number, (dataset, setting, seed) in enumerate([] if options.table else missing, 1):
        print(f"run {number} of {len(missing)}: {dataset}, {setting}, seed {seed}", file=sys.stderr, flush=True)
        folder = options.out.resolve() / dataset / run_name(setting) / str(seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(folder, dataset, setting, seed, options.flags)
        results[f"{dataset}/{run_name(setting)}/{seed}"] = score(folder, dataset, options.num_videos)
        kept.write_text(json.dumps(state, indent=1))
    print(json.dumps(state) if options.json else table(results, options.datasets, options.seeds))


if __name__ == "__main__":
    main()
